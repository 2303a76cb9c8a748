"""Numbers and the table: pure functions, tested by test_figures.py."""

# Dense bf16 FLOP/s of cards by NVML's name, from NVIDIA's data sheets (H100, November 2022; H200,
# 2024). Another card has no MFU rather than a wrong one.
PEAK_BF16 = {
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}


def quantile(values, share):
    """The value below which so large a share lies, between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def median(values):
    return quantile(values, 0.5)


def step_times(windows):
    """Seconds per step of windows of (steps, seconds)."""
    return [seconds / steps for steps, seconds in windows if steps > 0]


def after(windows, warmup_seconds):
    """The windows that begin when so much time has passed."""
    passed, kept = 0.0, []
    for steps, seconds in windows:
        if passed >= warmup_seconds:
            kept.append((steps, seconds))
        passed += seconds
    return kept


def spread(times):
    """From the 10th to the 90th percentile, over the median."""
    return (quantile(times, 0.9) - quantile(times, 0.1)) / median(times)


def flops_per_token(parameters, layers, width, sequence):
    """Training FLOPs: 6 N + 12 L d S (PaLM, arXiv 2204.02311, appendix B)."""
    return 6 * parameters + 12 * layers * width * sequence


def mfu(tokens_per_second, per_token, card):
    """Share of the card's peak; None where the peak is not known."""
    peak = PEAK_BF16.get(card)
    return tokens_per_second * per_token / peak if peak else None


def rival(rates, sides):
    """The quickest of these sides; None where one of them is not measured, because it might have
    been that one."""
    return max(sides, key=rates.get) if all(side in rates for side in sides) else None


def row(what, found, goal="", met=None):
    """A line of the table; `met` is None where there is no goal."""
    return {"what": what, "found": found, "goal": goal, "met": met}


def number(value, digits=3):
    """So many significant digits; a large number is whole, its thousands apart."""
    if value is None:
        return "not measured"
    if abs(value) >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share):
    return "not measured" if share is None else f"{100 * share:.2f} %"


MARKS = {True: "yes", False: "NO", None: ""}


def markdown(results):
    """The table of a run."""
    lines = [
        f"### GPU check of {results['date']}",
        "",
        f"{results['card']}, driver {results['driver']}, PyTorch {results['torch']}, "
        f"Brine {results['brine']}; `{results['command']}`; {results['seconds']:.0f} s.",
        "",
        "| step | what | found | goal | met |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step in results["steps"]:
        for line in step["rows"]:
            cells = [step["name"], line["what"], line["found"], line["goal"], MARKS[line["met"]]]
            lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
        if step["error"]:
            lines.append(f"| {step['name']} | failed | {cell(step['error'])} | | NO |")
    return "\n".join(lines) + "\n"


def cell(text):
    """A text that stays in its cell."""
    return " ".join(str(text).split()).replace("|", "/")


def failed_tests(printed):
    """Names of the failed tests in what a test program of Rust prints: its last list."""
    _, _, rest = printed.rpartition("\nfailures:\n")
    names = []
    for line in rest.lstrip("\n").splitlines():
        if not line.startswith("    "):
            break
        names.append(line.strip())
    return names


def failed(results):
    """Names of steps that failed. A goal that is missed is a finding and not a failure."""
    return [step["name"] for step in results["steps"] if step["error"]]
