"""The fastest settings that still make exact's clips, found on the user's own weights and device.

Candidates are measured beside exact at the same prompts and seeds. Stages follow each other, the safest first, and each
goes on from the best of those before it: how the transformer is run, the decoder's dtype, which steps are guided, which
steps hold the velocity of the one before (see tune.skipping). Fewer steps and other solvers can move what a clip shows,
so they are tried only with consent.

In a stage candidates are measured on 2 clips, then 4, then all (successive halving, Jamieson & Talwalkar, arXiv
1502.07943); those that break a rule leave, and of the others the faster half goes on. What passes is confirmed on clips
that the search never saw.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.measure.tune.fidelity import clip_psnr
from linnet.measure.tune.skipping import best_skips
from linnet.measure.tune.trials import EXACT, Candidate, Figures, Pair, Trials
from linnet.plan.passes import forwards
from linnet.request import HOLD
from linnet.sampling.flow import levels_of
from linnet.wording import format_duration, format_number

RUNGS = (2, 4)  # clips, before all of them
SLACK = 1.0  # dB that a rule gives on fewer clips than all
INTERVALS = ((0.0, 0.75), (0.25, 1.0), (0.0, 0.5), (0.25, 0.75), (0.5, 1.0))
SHARES = (
    0.9,
    0.8,
    0.7,
    0.6,
    0.55,
    0.5,
    0.45,
    0.4,
    0.35,
    0.3,
    0.25,
    0.2,
)  # of the passes through the transformer
EARLY = (
    0.0,
    0.5,
    1.0,
)  # how much more errors of the first steps count: clips differ in which list serves them
OTHER_WAYS = ("efficient", "flash", "stock", "plain")  # to attend
BEAM = 3  # candidates that a stage hands on
TRIES = 4  # candidates that are confirmed at most
TIMED = 2  # clips on which a candidate and exact are timed side by side once more
AS_FAST = 0.9  # share of the fastest's speed from which on another counts as fast as it
DRAFT = 4.0  # dB below the floor of fast
DRAFT_FASTER = 1.2  # than fast, or it is none
DRAWS, BOUND = 2000, 0.05  # of the bootstrap, and its one-sided bound


class OutOfTime(Exception):
    """The minutes are over; what was measured stands."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a candidate has to hold. `floor` is of the median PSNR, in dB; the worst tenth of all frames may lie
    `tenth` dB lower, and their SSIM by `ssim_tenth`. `drift`: of mean brightness and saturation, as a share of the
    range. `faster`: how many times at least."""

    floor: float
    ssim: float = 0.83
    tenth: float = 4.0
    ssim_tenth: float = 0.1
    drift: float = 0.02
    faster: float = 1.0

    def broken(self, figures: Figures | None, *, slack: float = 0.0) -> str:
        """The first rule that the figures break, in words; "" if none."""
        if figures is None:
            return "its latents are too far from exact's"
        for what, value, least in (
            ("PSNR", figures.psnr, self.floor - slack),
            ("the worst tenth's PSNR", figures.psnr_worst, self.floor - self.tenth - slack),
            ("SSIM", figures.ssim, self.ssim - slack / 100),
            ("the worst tenth's SSIM", figures.ssim_worst, self.ssim - self.ssim_tenth - slack / 100),
        ):
            if value < least:
                return f"{what} is {value:.3g}, under {least:.3g}"
        for what, value in (("brightness", figures.brightness), ("saturation", figures.saturation)):
            if value > self.drift:
                return f"{what} drifts by {value:.1%}, over {self.drift:.0%}"
        return ""

    def unconfirmed(self, confirmed: "Confirmed") -> str:
        """As `broken`, of what held the rules on clips that the search never saw, and must do so beyond chance."""
        if confirmed.bound < self.floor:
            return f"the median PSNR is at least {confirmed.bound:.3g} with 95 % confidence, under {self.floor:.3g}"
        if confirmed.figures.faster < self.faster:
            return f"it is {confirmed.figures.faster:.2f} times faster, under {self.faster:.2f}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A candidate that was confirmed. `bound`: the median PSNR is at least so high, with 95 % confidence."""

    candidate: Candidate
    figures: Figures
    bound: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a candidate that was measured: `why` it was rejected, or "" if it holds."""

    candidate: Candidate
    figures: Figures | None
    why: str


@dataclass(kw_only=True)
class Outcome:
    """`fast` is None where nothing passed, for the reason `why`. `another`: PSNR of another seed's clip to exact, which
    means another clip, unless the model makes nearly the same of every seed. `rounding`: of exact itself with other
    rounding, None where this device has one way to compute alone."""

    fast: Confirmed | None = None
    draft: Confirmed | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    another: float = 0.0
    rounding: float | None = None
    why: str = ""
    finished: bool = True


Watch = Callable[[str, int, int], object]  # a stage, how much of it is done, of how much


@dataclass(kw_only=True)
class Search:
    """One search. `search` and `held_out` are different clips; `deadline` is of `clock`."""

    spec: ModelSpec
    trials: Trials
    search: Sequence[Pair]
    held_out: Sequence[Pair]
    kernels: Sequence[Candidate] = ()
    lower_decoder: bool = False
    fp8: bool = False
    consent: bool = False
    extra: Sequence[Candidate] = ()
    deadline: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    watch: Watch = lambda stage, done, total: None
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    # --- stages -------------------------------------------------------------------------------------------------------

    def run(self, rules: Rules) -> list[Candidate]:
        """All that hold the rules on the clips of the search, the fastest first. When time runs out, those found so
        far."""
        holding: list[Candidate] = []
        with suppress(OutOfTime):
            self._stages(rules, holding)
        return sorted(dict.fromkeys(holding), key=self.faster, reverse=True)

    def _stages(self, rules: Rules, holding: list[Candidate]) -> None:
        best = [EXACT]

        def stage(name: str, options: Sequence[Candidate], *, beam: int = 1) -> None:
            """The best of the options and of what was best before; `holding` gets all that hold the rules."""
            nonlocal best
            passed = self.halve(name, options, rules, keep=beam)
            holding.extend(passed)
            best = sorted({*passed, *best}, key=self.faster, reverse=True)[:beam] if passed else best

        stage("extra", self.extra)
        best = [EXACT]
        stage("kernels", self.kernels)
        if self.lower_decoder:
            stage("decoder", [candidate.with_settings(decoder_dtype="auto") for candidate in best])
        if self.fp8:
            stage("FP8", [replace(candidate, fp8=True) for candidate in best])
        base = best[0]
        guided = [
            base.with_settings(guidance_from=start, guidance_until=stop)
            for start, stop in INTERVALS
            if self.spec.guidance
        ]
        stage("guidance", guided, beam=BEAM)
        starts = list(dict.fromkeys([*best, base]))
        self._cached(rules, starts, holding)
        if self.consent:
            self._moving(rules, list(dict.fromkeys([base, *starts])), holding)

    def _cached(self, rules: Rules, starts: Sequence[Candidate], holding: list[Candidate]) -> None:
        """Steps that hold a velocity: with each of the starts, as many as the rules bear."""
        for candidate in starts:
            for early in EARLY:
                rising = self.skipping(candidate, early)
                while rising := self.highest("step cache", rising, rules):
                    passed = self.halve("step cache", rising[-2:], rules, keep=2)
                    holding.extend(passed)
                    if passed or self.faster(rising[-1]) < rules.faster:
                        break
                    # A few clips are easily content: of all of them, milder ones may hold.
                    rising = rising[:-2]

    def skipping(self, candidate: Candidate, early: float) -> list[Candidate]:
        """The same with ever more steps left out: those that its own velocities can do without. `early` as for
        `best_skips`."""
        few = self.search[: RUNGS[0]]
        products = []
        for pair in few:
            self.check_time()
            products.append(self.trials.trial(candidate, pair).products)
        request = self.trials.request_of(candidate, few[0])
        skips = best_skips(products, levels_of(request).tolist(), forwards(request), early=early)
        most, rising = max(skips), list[Candidate]()
        for share in SHARES:
            within = [passes for passes in skips if passes <= share * most]
            if within and (left_out := skips[max(within)]):
                rising.append(candidate.with_settings(reuse=HOLD + ",".join(map(str, left_out))))
        return list(dict.fromkeys(rising))

    def _moving(self, rules: Rules, starts: Sequence[Candidate], holding: list[Candidate]) -> None:
        """Fewer steps by each solver, then steps cached from there."""
        steps = self.spec.steps
        options = [
            candidate.with_settings(solver=solver, steps=count)
            for candidate in starts
            for solver in ("euler", "dpm++", "unipc")
            for count in (round(0.7 * steps), round(0.5 * steps), round(0.35 * steps))
            if count >= self.spec.least_steps.get(solver, 1)
        ]
        passed = self.halve("solvers", options, rules, keep=BEAM)
        holding.extend(passed)
        self._cached(rules, passed, holding)

    def highest(self, name: str, rising: Sequence[Candidate], rules: Rules) -> list[Candidate]:
        """Candidates rise in speed and in distance from exact: those up to the last that holds the rules on a few
        clips, which is found by halves."""
        rung, low, high = min(RUNGS[0], len(self.search)), -1, len(rising)
        while high - low > 1:
            middle = (low + high) // 2
            self.watch(f"{name}, {rung} clips", 0, 1)
            broken = self.judge(rising[middle], rung, rules, SLACK).why
            low, high = (low, middle) if broken else (middle, high)
        self.watch(f"{name}, {rung} clips", 1, 1)
        return list(rising[: low + 1])

    # --- successive halving -------------------------------------------------------------------------------------------

    def halve(
        self, name: str, options: Sequence[Candidate], rules: Rules, *, keep: int = 1
    ) -> list[Candidate]:
        """Those that hold the rules on all clips, `keep` at least where so many do; the slower half of a rung has
        another chance when nobody else is left."""
        reserve, whole = list(dict.fromkeys(options)), len(self.search)
        rungs = [*(rung for rung in RUNGS if rung < whole), whole]
        while reserve:
            alive, reserve = reserve, []
            for rung in rungs:
                slack = 0.0 if rung == whole else SLACK
                passed = []
                for number, candidate in enumerate(alive):
                    self.watch(f"{name}, {rung} clips", number, len(alive))
                    if not self.judge(candidate, rung, rules, slack).why:
                        passed.append(candidate)
                self.watch(f"{name}, {rung} clips", len(alive), len(alive))
                alive = sorted(passed, key=self.faster, reverse=True)
                if rung < whole:
                    most = max(keep, -(-len(alive) // 2))
                    alive, reserve = alive[:most], [*reserve, *alive[most:]]
            if alive:
                return alive
        return []

    def judge(self, candidate: Candidate, rung: int, rules: Rules, slack: float) -> Verdict:
        trials = []
        for pair in self.search[:rung]:
            self.check_time()
            trials.append(self.trials.trial(candidate, pair))
            if trials[-1].fidelity is None:
                break
        figures = Figures.of(trials)
        verdict = Verdict(candidate=candidate, figures=figures, why=rules.broken(figures, slack=slack))
        self.verdicts[candidate.key] = verdict
        return verdict

    def faster(self, candidate: Candidate) -> float:
        """How many times, on the clips so far."""
        verdict = self.verdicts.get(candidate.key)
        return verdict.figures.faster if verdict and verdict.figures else 1.0

    def nearest_first(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The fastest first; of those that are about as fast, the nearest to exact. What a clip takes differs by some
        percent from run to run, so that the last percent of speed is chance, and nearness is not."""
        left, ordered = sorted(candidates, key=self.faster, reverse=True), list[Candidate]()
        while left:
            least = AS_FAST * self.faster(left[0])
            as_fast = [candidate for candidate in left if self.faster(candidate) >= least]
            nearest = max(as_fast, key=self.nearness)
            ordered.append(nearest)
            left.remove(nearest)
        return ordered

    def nearness(self, candidate: Candidate) -> float:
        """SSIM of the worst tenth of the frames: what is lost is lost in some clips, and a mean hides them."""
        verdict = self.verdicts.get(candidate.key)
        return verdict.figures.ssim_worst if verdict and verdict.figures else 0.0

    def check_time(self) -> None:
        if self.clock() > self.deadline:
            raise OutOfTime

    # --- confirmation -------------------------------------------------------------------------------------------------

    def confirm(self, candidates: Sequence[Candidate], rules: Rules) -> tuple[Confirmed | None, str]:
        """The first that holds the rules on the clips that the search never saw, or why the last of them did not.

        How much faster it is, is measured again here: exact's clips may be from another hour, when the machine had
        other work or a card was warmer."""
        why = ""
        for candidate in candidates[:TRIES]:
            trials = []
            for number, pair in enumerate(self.held_out):
                self.watch(f"confirming {candidate}", number, len(self.held_out))
                trials.append(self.trials.trial(candidate, pair, picture=True))
            self.watch(f"confirming {candidate}", len(self.held_out), len(self.held_out))
            figures = Figures.of(trials)
            why = rules.broken(figures)
            if figures and not why:
                times = [self.trials.timed(candidate, pair) for pair in self.held_out[:TIMED]]
                figures = replace(figures, faster=median(times))
                confirmed = Confirmed(candidate=candidate, figures=figures, bound=lower_bound(figures.each))
                why = rules.unconfirmed(confirmed)
                if not why:
                    return confirmed, ""
            self.verdicts[candidate.key] = Verdict(candidate=candidate, figures=figures, why=why)
            why = f"{candidate}: on the clips that it never saw, {why}"
        return None, why


def tune(search: Search, *, floor: float, target: float, seconds: float) -> Outcome:
    """Exact first, then the search, then the confirmation; for fast, then for draft. `seconds` are what it may take.

    InvalidInput if that is too little to decide anything.
    """
    started = search.clock()
    search.deadline = started + seconds
    another, itself = references(search, seconds)
    rules = Rules(floor=floor, faster=target)
    outcome = Outcome(another=another, rounding=itself)
    if itself is not None and itself < rules.floor:
        outcome.why = (
            f"exact with other rounding is {itself:.1f} dB from itself, and {rules.floor:.1f} dB is asked for"
        )
        return outcome
    holding = search.run(rules)
    quick = search.nearest_first([candidate for candidate in holding if search.faster(candidate) >= target])
    outcome.fast, outcome.why = search.confirm(quick, rules)
    if not holding:
        outcome.why = f"nothing that was tried keeps {format_number(round(rules.floor, 1))} dB"
    elif not quick:
        best = holding[0]
        outcome.why = (
            f"the fastest that keeps {format_number(round(rules.floor, 1))} dB is {search.faster(best):.2f} times "
            f"faster ({best}), under the target of {format_number(target)}"
        )
    if outcome.fast:
        lower = replace(rules, floor=floor - DRAFT, ssim=rules.ssim - 0.05)
        least = outcome.fast.figures.faster * DRAFT_FASTER
        quick = search.nearest_first(
            [candidate for candidate in search.run(lower) if search.faster(candidate) >= least]
        )
        outcome.draft, _ = search.confirm(quick, replace(lower, faster=least))
        rougher = outcome.draft
        if rougher and not rules.broken(rougher.figures) and not rules.unconfirmed(rougher):
            outcome.fast, outcome.draft = rougher, None  # the search for fast had left it out
    outcome.verdicts = list(search.verdicts.values())
    outcome.finished = search.clock() <= search.deadline
    return outcome


def references(search: Search, seconds: float) -> tuple[float, float | None]:
    """All exact clips; the PSNR of another seed's clip, and that of exact with other rounding."""
    started, trials = search.clock(), search.trials
    first = search.search[0]
    others = [Pair(pair.prompt, pair.seed + 1_000_000) for pair in search.search[:2]]
    pairs = [*search.search, *search.held_out, *others]
    for number, pair in enumerate(pairs):
        search.watch("exact clips", number, len(pairs))
        reference = trials.exact(pair)
        # What is left to do at least: the other exact clips, a candidate twice as fast on all of them, and the timing.
        least = reference.seconds * (len(pairs) - 1 - number + len(search.search) + 1.5 * TIMED)
        if search.clock() - started + least > seconds:
            need = math.ceil(15 * (search.clock() - started + least) / 60) / 10  # with time for a search
            problem = f"is too little time: an exact clip takes {format_duration(reference.seconds)} here"
            remedy = f"use `minutes={need}` at least, or fewer `clips`; the clips that were made are kept"
            raise InvalidInput("minutes", format_number(seconds / 60), problem, remedy)
    search.watch("exact clips", len(pairs), len(pairs))
    another = median(trials.alike(*both) for both in zip(search.search, others, strict=False))
    return another, rounding(trials, first)


def rounding(trials: Trials, pair: Pair) -> float | None:
    """PSNR of exact to itself with another way to attend: the same mathematics, rounded otherwise. None if this device
    has one way alone."""
    usual = trials.exact(pair)
    for name in OTHER_WAYS:
        if name != usual.attention:
            changed = trials.exact(pair, attention=name)
            if changed.attention == name:
                return clip_psnr(changed.frames, usual.frames)
    return None


def lower_bound(values: Sequence[float], seed: int = 0) -> float:
    """The median is at least so high, by the percentile bootstrap."""
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(DRAWS))
    return medians[int(BOUND * DRAWS)]
