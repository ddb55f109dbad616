"""Train the example model with scikit-learn and write its coefficients to model.json beside this file.

    python3 -m venv /tmp/train && /tmp/train/bin/pip install scikit-learn && /tmp/train/bin/python train.py

Fisher's iris data (150 flowers, four lengths in cm, three species) is part of scikit-learn. The scaler is folded into
the coefficients, so that whoever serves the model needs no more than `exp(w . x + b)`.
"""

import json
import sys
from pathlib import Path

from sklearn import __version__
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    iris = load_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    accuracy = cross_val_score(pipeline, iris.data, iris.target, cv=10).mean()
    pipeline.fit(iris.data, iris.target)
    scaler, regression = pipeline[0], pipeline[1]
    coefficients = regression.coef_ / scaler.scale_
    intercepts = regression.intercept_ - coefficients @ scaler.mean_
    model = {
        "trained_with": f"scikit-learn {__version__}",
        "accuracy": round(float(accuracy), 4),
        "features": [name.removesuffix(" (cm)").replace(" ", "_") for name in iris.feature_names],
        "classes": [str(name) for name in iris.target_names],
        "coefficients": [[round(float(w), 6) for w in row] for row in coefficients],
        "intercepts": [round(float(b), 6) for b in intercepts],
        "example": [float(x) for x in iris.data[0]],
    }
    Path(__file__).with_name("model.json").write_text(json.dumps(model, indent=2) + "\n")
    sys.stdout.write(f"10-fold accuracy {accuracy:.3f}\n")


if __name__ == "__main__":
    main()
