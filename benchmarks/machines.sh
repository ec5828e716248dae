#!/bin/bash
# Do two machines train one run, and is a cut cable noticed? Two network namespaces with a cable
# between them stand for the machines; wants root, iproute2 and the extra `atari`.
#
#     bash benchmarks/machines.sh FOLDER        (a minute; FOLDER is made anew)
#
# Prints the finished run's files, and how many seconds after the cut the first machine said whom it
# misses (--timeout is 8 here, 600 by default).
set -u
folder=${1:?a folder to work in}
export GLOO_SOCKET_IFNAME=eth
rm -rf "$folder"; mkdir -p "$folder"
python -m scaledq collect Freeway Pong --store "$folder/store" --steps 300 --slots 2 --protocol quick

clean() { for n in 1 2; do ip netns pids sq$n | xargs -r kill -9; ip netns del sq$n; done; }
trap clean EXIT
for n in 1 2; do ip netns add sq$n; done
ip link add eth netns sq1 type veth peer name eth netns sq2
for n in 1 2; do
    ip -n sq$n addr add 10.77.0.$n/24 dev eth
    ip -n sq$n link set eth up
    ip -n sq$n link set lo up
done

machine() { # its number, steps
    ip netns exec sq"$1" torchrun --nnodes 2 --nproc-per-node 1 --local-addr 10.77.0."$1" \
        --rdzv-backend c10d --rdzv-id machines --rdzv-endpoint 10.77.0.1:29500 \
        --rdzv-conf is_host=$((2 - $1)) --max-restarts 0 \
        -m scaledq train scaled_ql --scale smoke --store "$folder/store" --out "$folder/runs" \
        --steps "$2" --log-every 20 --checkpoint-every 40 --timeout 8 --resume auto
}

machine 1 60 > "$folder/1" 2>&1 & first=$!
machine 2 60 > "$folder/2" 2>&1
wait $first || exit 1
ls "$folder"/runs/*/

machine 1 100000 > "$folder/1" 2>&1 & first=$!
machine 2 100000 > "$folder/2" 2>&1 &
until grep -qs '"step": 80' "$folder"/runs/*/metrics.jsonl; do sleep 0.2; done
ip -n sq2 link set eth down
cut=$(date +%s)
wait $first
echo "told after $(($(date +%s) - cut)) s: $(grep "scaledq: error" "$folder/1")"
