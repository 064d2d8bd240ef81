"""Pictures classified by workers: celery --app celery_worker worker --pool threads

With the pool of processes (prefork) each process loads its own classifier, at its first task.
"""

import os
from functools import cache

from celery import Celery

import ghostzoo

app = Celery("pictures", broker=os.environ.get("BROKER", "redis://localhost"), backend=os.environ.get("BACKEND", "rpc"))


@cache
def classifier():
    """Loaded in the worker, not where tasks are sent from."""
    return ghostzoo.load("GhostNet_x0_5_cifar10", threads=1)


@app.task(autoretry_for=(OSError,), retry_backoff=True, max_retries=3)
def classify(path):
    """Return the best classes of a picture, or why it could not be read."""
    try:
        return [(prediction.label, prediction.score) for prediction in classifier()(path, top_k=3)]
    except ghostzoo.ImageError as error:
        return {"error": str(error)}
