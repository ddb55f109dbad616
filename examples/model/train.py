"""Train the example's model and keep it, with what tells whether it is any good.

Usage: train.py FOLDER [--trees N]. Writes FOLDER/model.joblib and FOLDER/report.json; exit 1, and no model, where it
guesses too much. The data comes with scikit-learn: 150 flowers of three species of iris, four measurements each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import sklearn
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

# A release that is worse than this is none.
LEAST_ACCURACY = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trees", type=int, default=100)
    given = parser.parse_args()
    flowers = load_iris()
    # One thread: a container has a fraction of a core, and threads would only wait for one another.
    forest = RandomForestClassifier(given.trees, random_state=0, n_jobs=1)
    accuracy = float(cross_val_score(forest, flowers.data, flowers.target, cv=5).mean())
    if accuracy < LEAST_ACCURACY:
        raise SystemExit(f"the model is right in {accuracy:.3f} of all cases, and {LEAST_ACCURACY} is the least")
    forest.fit(flowers.data, flowers.target)
    given.folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(
        {
            "estimator": forest,
            "features": list(flowers.feature_names),
            "classes": [str(name) for name in flowers.target_names],
            # What a new container predicts before it says that it is healthy.
            "example": flowers.data[0].tolist(),
        },
        given.folder / "model.joblib",
        compress=3,
    )
    report = {"accuracy": round(accuracy, 4), "trees": given.trees, "scikit-learn": sklearn.__version__}
    (given.folder / "report.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
