"""An S3 endpoint for tests, run as a program of its own: moto's, with one empty bucket, `bucket`.

python s3.py                prints the port it listens on
"""

import signal

import boto3
from moto.server import ThreadedMotoServer

if __name__ == "__main__":
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    ).create_bucket(Bucket="bucket")
    print(port, flush=True)
    signal.pause()
