"""The paper's figures and tables: what each compares, what it printed, and what it claims.

Numbers are the paper's own where `source` names a part of it; others name the paper that they are
quoted from. Bars and curves without a printed number have none here: nothing was read off a plot.
Where the paper does not say which data an ablation saw, it is all of the logs (near-optimal): the
medians of table 1 lie on the near-optimal curve of figure 6.
"""

from scaledq.data.view import Uniform, View
from scaledq.study.spec import Arm, Claim, Published, Study

SUB, NEAR = "sub-optimal", "near-optimal"
BEHAVIOUR = "Behaviour policy"
OURS = "Scaled QL"
BC_REMARK = (
    "The paper does not say how its BC chooses actions; ours draws them from the learnt "
    "distribution, which scores higher than taking the likeliest."
)


def table(number: int, value: float) -> Published:
    """A percentage that a table prints."""
    return Published(value=value / 100, source=f"table {number}")


FIG2 = Study(
    name="fig2",
    title="Figure 2: forty games, sub-optimal data",
    question="Does offline Q-learning beat imitation, and its data, where the data is poor?",
    arms=(
        Arm(label="DT (200M)", recipe="dt_large", panel=SUB,
            published=Published(value=0.306, source="figure 5, caption")),
        Arm(label="DT (40M)", recipe="dt", panel=SUB),
        Arm(label="BC", recipe="bc", selection="sampled", panel=SUB),
        Arm(label="Online MT DQN", recipe="online_c51", panel=SUB),
        Arm(label=OURS, recipe="scaled_ql", panel=SUB,
            published=Published(value=0.778, source="section 5 and figure 5, caption")),
        Arm(label=BEHAVIOUR, panel=SUB, published=Published(value=0.51, source="section 3")),
    ),
    claims=(
        Claim(text="Scaled QL beats the decision transformer on sub-optimal data, about 2.5 times",
              better=OURS, worse="DT (200M)", panel=SUB, source="section 5, figure 2"),
        Claim(text="Scaled QL beats the behaviour that made its data",
              better=OURS, worse=BEHAVIOUR, panel=SUB, source="section 5"),
        Claim(text="Scaled QL beats behaviour cloning with the same network",
              better=OURS, worse="BC", panel=SUB, source="figure 2"),
    ),
    remarks=(BC_REMARK,),
)  # fmt: skip

FIG4 = Study(
    name="fig4",
    title="Figure 4: Scaled QL against DT, game by game",
    question="In which games does offline Q-learning improve on return conditioning?",
    arms=tuple(arm for arm in FIG2.arms if arm.label in (OURS, "DT (200M)")),
    figures=("improvement",),
    claims=FIG2.claims[:1],
    remarks=(
        "Improvement: the difference of human-normalised scores, as a share of the size of DT's.",
    ),
)

FIG5 = Study(
    name="fig5",
    title="Figure 5: near-optimal and sub-optimal data",
    question="Does offline Q-learning keep up with imitation where the data is good?",
    arms=(
        Arm(label="DT (200M)", recipe="dt_large",
            published=Published(value=1.118, source="figure 5, caption")),
        Arm(label="DT (40M)", recipe="dt"),
        Arm(label="BC", recipe="bc", selection="sampled"),
        Arm(label="Online MT DQN", recipe="online_c51"),
        Arm(label=OURS, recipe="scaled_ql",
            published=Published(value=1.141, source="figure 5, caption")),
        Arm(label=BEHAVIOUR, published=Published(value=0.935, source="section 3")),
        *FIG2.arms,
    ),
    figures=("bars",),
    claims=(
        Claim(text="Scaled QL with 80 M parameters beats DT with 200 M on near-optimal data (3 %)",
              better=OURS, worse="DT (200M)", source="section 5"),
        Claim(text="Scaled QL beats the behaviour that made its data, near-optimal too",
              better=OURS, worse=BEHAVIOUR, source="section 5"),
        *FIG2.claims,
    ),
    remarks=(BC_REMARK,),
)  # fmt: skip

SIZES = {"small": "ResNet-34", "medium": "ResNet-50", "large": "ResNet-101", "huge": "ResNet-152"}


def sized(recipe: str, size: str) -> str:
    """The recipe of that size; the large one goes without a word."""
    return recipe if size == "large" else f"{recipe}_{size}"


def curve(family: str, recipe: str, published: dict[str, Published] | None = None) -> list[Arm]:
    """One arm a size."""
    short = family.rpartition("/")[2]
    return [
        Arm(label=f"{short}, {resnet}", recipe=sized(recipe, size), family=family,
            published=(published or {}).get(size))
        for size, resnet in SIZES.items()
    ]  # fmt: skip


C51, MSE = "Scaled QL + ResNet/C51", "Scaled QL + ResNet/MSE"
FIG6 = Study(
    name="fig6",
    title="Figure 6: scaling with near-optimal data",
    question="Does performance grow with the network as a power law?",
    arms=(
        *curve(C51, "scaled_ql",
               {"large": Published(value=1.141, source="figure 5, caption (the same run)")}),
        *curve(MSE, "scaled_ql_mse"),
        *(
            Arm(label=f"IMPALA, {shape}", recipe=f"cql_impala_{size}", family="CQL + IMPALA")
            for size, shape in (("small", "5 x 128"), ("medium", "10 x 256"),
                                ("large", "5 x 512"), ("huge", "10 x 512"))
        ),
    ),
    figures=("scaling",),
    claims=(
        Claim(text="With C51, the largest ResNet beats the smallest",
              better="C51, ResNet-152", worse="C51, ResNet-34", source="section 5.1"),
        Claim(text="With squared error too",
              better="MSE, ResNet-152", worse="MSE, ResNet-34", source="section 5.1"),
        Claim(text="C51 beats squared error at the large size",
              better="C51, ResNet-101", worse="MSE, ResNet-101", source="section 5.1"),
        Claim(text="With IMPALA in the CQL of Lee et al., larger networks are worse",
              better="IMPALA, 5 x 128", worse="IMPALA, 10 x 512",
              source="figure 6, caption"),
    ),
)  # fmt: skip

FROM_SCRATCH = "Scaled QL (scratch)"
FIG7 = Study(
    name="fig7",
    title="Figure 7: offline fine-tuning to unseen games",
    question="Is what offline Q-learning learnt of use in games it never saw, from 1 % of a log?",
    tasks="held-out",
    normal="dqn",
    arms=(
        Arm(label=OURS, recipe="scaled_ql", start="scaled_ql"),
        Arm(label="Scaled QL (frozen)", recipe="scaled_ql", start="scaled_ql", frozen=True),
        Arm(label=FROM_SCRATCH, recipe="scaled_ql"),
        Arm(label="MAE", recipe="scaled_ql_on_mae", start="mae", frozen=True),
        Arm(label="BC (pre-trained)", recipe="bc", start="bc", selection="sampled"),
        Arm(label="DT (pre-trained)", recipe="dt", start="dt"),
        Arm(label="DT (scratch)", recipe="dt"),
        Arm(label="CPC + DT", recipe="dt_on_cpc", start="cpc"),
    ),
    figures=("tasks", "bars"),
    claims=(
        Claim(text="Pre-training helps Scaled QL in unseen games (by 45 %)",
              better=OURS, worse=FROM_SCRATCH, source="figure 7, caption"),
        Claim(text="It beats the pre-trained decision transformer (others by 82 % on average)",
              better=OURS, worse="DT (pre-trained)", source="figure 7, caption"),
        Claim(text="It beats features of a masked autoencoder",
              better=OURS, worse="MAE", source="figure 7"),
    ),
)  # fmt: skip

ONLINE = (
    Arm(label=OURS, recipe="finetune_online", start="scaled_ql"),
    Arm(label=FROM_SCRATCH, recipe="finetune_online"),
    Arm(label="MAE", recipe="finetune_online_on_mae", start="mae", frozen=True),
    Arm(label="Single-game DQN", recipe="online_dqn"),
)
FIG8 = Study(
    name="fig8",
    title="Figure 8: online fine-tuning to variants of training games",
    question="Does offline pre-training speed up learning online, where the game has changed?",
    tasks="variants",
    normal="raw",
    arms=ONLINE,
    figures=("tasks",),
    claims=(
        Claim(text="Pre-training beats learning from scratch in 3 M frames",
              better=OURS, worse=FROM_SCRATCH, source="figure 8, caption"),
        Claim(text="It beats features of a masked autoencoder",
              better=OURS, worse="MAE", source="figure 8, caption"),
        Claim(text="It beats a DQN of one game with 16 times the frames",
              better=OURS, worse="Single-game DQN", source="figure 8, caption"),
    ),
    remarks=(
        "Single-game DQN with 50 M frames scored 4.8 in Freeway m1d0, 1,425.2 in Hero m1d0 and "
        "67.6 in Breakout m12d0 (Farebrother et al., 2018).",
    ),
)  # fmt: skip
REMEDIES = (
    Arm(label="RLPD", recipe="finetune_online_mixed", start="scaled_ql"),
    Arm(label="Cal-QL", recipe="finetune_online_calibrated", start="scaled_ql_calibrated"),
    Arm(label="head reset", recipe="finetune_online_reset", start="scaled_ql"),
    Arm(label="encoder thawed", recipe="finetune_online_thawed", start="scaled_ql"),
    Arm(label="pessimism annealed", recipe="finetune_online_annealed", start="scaled_ql"),
)
"""What was published for online fine-tuning; docs/finetuning.md names the papers."""
WARMED = Arm(label="WSRL", recipe="finetune_online_warmed", start="scaled_ql")
"""It begins with what the source would play, and so needs a game that the source knows."""


def beats_scratch(*arms: Arm) -> tuple[Claim, ...]:
    """What each remedy would have to show."""
    return tuple(
        Claim(text=f"{arm.label} beats learning from scratch", better=arm.label,
              worse=FROM_SCRATCH, source="asked beyond section 6")
        for arm in arms
    )  # fmt: skip


FIGB1 = Study(
    name="figB1",
    title="Figure B.1: curves of online fine-tuning",
    question="How fast does each of them learn online, and do later remedies help?",
    tasks="variants",
    normal="raw",
    arms=(*ONLINE, *REMEDIES, WARMED),
    figures=("curves", "tasks"),
    claims=beats_scratch(*REMEDIES, WARMED),
    remarks=(
        "RLPD mixes in the logs that the source learnt from: there are none of the variants.",
        "WSRL begins with the head of the variant's game, a new one where the source lacks it.",
    ),
)
NEW_GAMES = Study(
    name="remedies",
    title="Beyond section 6: online fine-tuning to wholly new games",
    question="Does any published remedy beat learning from scratch in a game that is all new?",
    tasks="new",
    arms=(ONLINE[0], ONLINE[1], *REMEDIES),
    figures=("curves", "tasks", "bars"),
    claims=beats_scratch(ONLINE[0], *REMEDIES),
    remarks=(
        "RLPD mixes in the logs that the source learnt from, not logs of the new game: learning "
        "from scratch has none either. WSRL is not among them: it begins with what the source "
        "would play, and the source knows nothing of these games.",
    ),
)

TABLE1 = Study(
    name="table1",
    title="Table 1: squared TD error or C51",
    question="Does a distributional loss beat squared TD error where tasks share a network?",
    statistic="median",
    arms=(
        Arm(label="MSE, ResNet-50", recipe="scaled_ql_mse_medium", published=table(1, 41.1)),
        Arm(label="C51, ResNet-50", recipe="scaled_ql_medium", published=table(1, 53.5)),
        Arm(label="MSE, ResNet-101", recipe="scaled_ql_mse", published=table(1, 59.5)),
        Arm(label="C51, ResNet-101", recipe="scaled_ql", published=table(1, 98.9)),
    ),
    claims=(
        Claim(text="C51 beats squared error with the larger network",
              better="C51, ResNet-101", worse="MSE, ResNet-101", source="table 1"),
        Claim(text="C51 beats squared error with the smaller network",
              better="C51, ResNet-50", worse="MSE, ResNet-50", source="table 1"),
    ),
)  # fmt: skip

TABLE2_PRINTED = {"small": (50.9, 78.0), "medium": (73.9, 83.5), "large": (80.4, 98.0)}
TABLE2 = Study(
    name="table2",
    title="Table 2: features of unit norm",
    question="Does normalising features to unit length help?",
    statistic="median",
    arms=tuple(
        Arm(label=f"{SIZES[size]}, {how}", recipe=f"table2_{stem}{size}", panel=SUB,
            published=table(2, printed[which]))
        for size, printed in TABLE2_PRINTED.items()
        for which, (how, stem) in enumerate((("as it is", "unnormalised_"), ("unit norm", "")))
    ),
    claims=tuple(
        Claim(text=f"Unit-norm features help {SIZES[size]}", panel=SUB, source="table 2",
              better=f"{SIZES[size]}, unit norm", worse=f"{SIZES[size]}, as it is")
        for size in TABLE2_PRINTED
    ),
    remarks=("The paper says six games and names five; we take the five.",),
)  # fmt: skip

B2 = Study(
    name="B.2",
    title="Appendix B.2: scaling of discrete BCQ",
    question="Does another offline method scale with the network?",
    arms=tuple(curve("BCQ", "bcq")),
    figures=("scaling", "bars"),
    claims=(
        Claim(text="The largest ResNet beats the smallest with BCQ",
              better="BCQ, ResNet-152", worse="BCQ, ResNet-34", source="appendix B.2"),
    ),
)  # fmt: skip

B3 = Study(
    name="B.3",
    title="Appendix B.3: learned spatial embeddings",
    question="Does a learned spatial embedding beat flattening the encoder's map?",
    arms=(
        Arm(label="weighted sums", recipe="scaled_ql"),
        Arm(label="element-wise product", recipe="scaled_ql_product"),
        Arm(label="flattened", recipe="scaled_ql_flatten"),
    ),
    claims=(
        Claim(
            text="Spatial embeddings are better than flattening",
            better="weighted sums",
            worse="flattened",
            source="section 5.3, appendix B.3",
        ),
    ),
)

B4 = Study(
    name="B.4",
    title="Appendix B.4: no pessimism",
    question="Does diverse data make conservatism needless?",
    arms=(
        Arm(label="alpha 0.05", recipe="scaled_ql"),
        Arm(label="alpha 0", recipe="scaled_ql_no_pessimism"),
    ),
    claims=(
        Claim(
            text="Pessimism is crucial for good performance on average",
            better="alpha 0.05",
            worse="alpha 0",
            source="section 5.3, appendix B.4",
        ),
    ),
)

BEYOND = Study(
    name="beyond",
    title="Beyond the paper",
    question="What of what came after it is better, all else equal?",
    arms=(
        Arm(label="C51", recipe="scaled_ql"),
        Arm(label="HL-Gauss", recipe="scaled_ql_hl_gauss"),
        Arm(label="two-hot", recipe="scaled_ql_two_hot"),
        Arm(label="quantiles", recipe="scaled_ql_quantile"),
        Arm(label="IQL", recipe="iql"),
        Arm(label="ResNet-152", recipe="scaled_ql_huge"),
        Arm(label="double target", recipe="scaled_ql_double"),
        Arm(label="averaged target", recipe="scaled_ql_averaged_target"),
        Arm(label="one-step", recipe="scaled_ql_one_step"),
        Arm(label="BiT", recipe="scaled_ql_bit"),
    ),
    claims=(
        Claim(
            text="HL-Gauss beats C51, all else equal (IQM, by about 45 %)",
            better="HL-Gauss",
            worse="C51",
            source="Farebrother et al. (2024), section 4",
        ),
    ),
)

DATA = Study(
    name="data",
    title="Scaling with data",
    question="Does performance grow with the logs as a power law?",
    arms=(
        *(
            Arm(label=f"{share:.3g} of the logs", recipe="scaled_ql", family=OURS,
                view=View(rows=Uniform(fraction=share)))
            for share in (1 / 16, 1 / 4)
        ),
        Arm(label="all of the logs", recipe="scaled_ql", family=OURS),
    ),
    figures=("scaling", "bars"),
    claims=(),
)  # fmt: skip

STUDIES = {
    study.name: study
    for study in (
        FIG2, FIG4, FIG5, FIG6, FIG7, FIG8, FIGB1, TABLE1, TABLE2, B2, B3, B4, BEYOND, DATA,
        NEW_GAMES,
    )
}  # fmt: skip
