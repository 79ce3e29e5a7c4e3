"""Where everything lies, relative to the root of the repository (the working directory)."""

from pathlib import Path

PARAMS = Path("params.yaml")

DATA = Path("data")  # owned by DATA_VERSION; no stage writes here
DATA_VERSION = Path("data.dvc")

RAW = Path("artifacts/raw")  # load
CHIPS = Path("artifacts/chips")  # preprocess
CHECKPOINTS = Path("artifacts/checkpoints")  # train; no stage output, so DVC never deletes it
RANK_LOGS = Path("artifacts/ranks")  # train with several processes: what each of them says
INCOMING = Path("artifacts/incoming")  # ingest

MODEL = Path("model")  # the bundle
DATA_REPORT = Path("reports/data.json")
TRAINING = Path("reports/training")  # DVCLive
CURVES = TRAINING / "plots" / "metrics"
METRICS = Path("reports/metrics.json")
CLASSES = Path("reports/classes.json")
PREDICTIONS = Path("reports/predictions.csv")
PLOTS = Path("reports/plots")
PICTURES = Path("reports/pictures")
REPORT = Path("reports/report.md")
