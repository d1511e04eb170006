"""A model of census-like rows, whose columns of text lack values, as people log it; and such rows. Tests load this file."""

import warnings

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

TEXTS = {
    "workclass": ["Private", "Self-emp", "State-gov"],
    "occupation": ["Sales", "Tech-support", "Craft-repair", "n/a?"],
    "country": ["United-States", "Mexico", "Curaçao"],
}


def frame(count, seed=0):
    """Rows; about a fifth of the texts, and of the hours, are missing."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame({"age": rng.integers(17, 80, count), "hours": rng.integers(1, 99, count) * 1.0})
    made.loc[rng.random(count) < 0.2, "hours"] = np.nan
    for name, values in TEXTS.items():
        made[name] = rng.choice(values, count, p=np.linspace(3, 1, len(values)) / np.linspace(3, 1, len(values)).sum())
        made.loc[rng.random(count) < 0.2, name] = np.nan
    return made


def save(folder):
    """Log the model to a folder. It answers probabilities, so that no difference is lost."""
    import mlflow.sklearn as flavor
    from mlflow.models import infer_signature

    rows = frame(400)
    wealthy = (rows["age"] > 45) ^ (rows["occupation"] == "Sales") ^ rows["workclass"].isna()
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer((texts, list(TEXTS)), (SimpleImputer(), ["hours", "age"]))
    model = make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(rows, wealthy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flavor.save_model(
            model,
            str(folder),
            signature=infer_signature(rows, model.predict_proba(rows)),
            input_example=rows[rows["workclass"].isna()][:1],
            pip_requirements=[],
            pyfunc_predict_fn="predict_proba",
            serialization_format="cloudpickle",
        )
    return folder
