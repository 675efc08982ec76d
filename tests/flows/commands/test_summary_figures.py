"""What a person reads of a run on a terminal that is as wide as most."""

import io

from rich.console import Console

from consilo.metrics.words import in_short
from flows.commands.summary import FEDERATED, show

CLASSES = [f"class {each}" for each in range(30)]
METRICS = {
    "accuracy": 0.8, "log_loss": 0.4, "brier": 0.1, "balanced_accuracy": 0.7, "f1_macro": 0.6,
    "roc_auc_macro": 0.9, **{f"recall/{each}": 0.5 for each in CLASSES}, "silo_mean/own": 0.25,
    "num_silos/own": 3.0,
}  # fmt: skip
SUMMARY = {
    "status": "complete",
    "metrics": METRICS,
    "intervals": {name: [0.25, 0.75] for name in METRICS if not name.startswith("num_")},
}


def test_figures_stand_whole_on_lines_that_fit():
    """A line was cut within a figure's name; one of many classes was thousands of signs long."""
    console = Console(width=100, record=True, file=io.StringIO())
    show(SUMMARY, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    (first,) = [at for at, line in enumerate(lines) if line.startswith(FEDERATED)]
    told = "  ".join(line[31:] for line in lines[first : first + 3])
    for name in ("accuracy 0.8000", "roc_auc_macro 0.9000", "those of single classes: --json"):
        assert name in told
    assert any("accuracy 0.2500 to 0.7500" in line for line in lines)
    assert any("own 0.2500 (3 silos)" in line for line in lines)


def test_a_line_of_progress_tells_what_says_most():
    assert in_short(METRICS) == (
        "silo_mean/own 0.2500, roc_auc_macro 0.9000, accuracy 0.8000, balanced_accuracy 0.7000"
    )


def test_few_classes_have_a_table():
    console = Console(width=100, record=True, file=io.StringIO())
    each = {"recall/benign": 0.75, "precision/benign": 0.5, "recall/in situ": 0.25}
    show({**SUMMARY, "metrics": {"accuracy": 0.8, **each}}, console)
    text = console.export_text()
    (row,) = [line.split("│")[1:-1] for line in text.splitlines() if "benign" in line]
    assert [cell.strip() for cell in row] == ["benign", "0.7500", "0.5000"]
    assert "in situ" in text
    assert "--json" not in text
