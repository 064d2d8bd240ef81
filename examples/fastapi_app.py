"""A classifier in a FastAPI application of your own: uvicorn fastapi_app:app

For a server with batching, limits and metrics there is `ghostzoo serve`.
"""

from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, UploadFile

import ghostzoo


@asynccontextmanager
async def lifespan(app):
    """Load the model before the first request, and free it at the end."""
    with ghostzoo.load("GhostNet_x0_5_cifar10", limits=ghostzoo.ImageLimits(max_bytes=10_000_000)) as classifier:
        classifier.warmup()
        app.state.classifier = classifier
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(file: UploadFile, request: Request):
    """Return the five best classes of the picture."""
    try:
        top = await request.app.state.classifier.apredict(await file.read())
    except ghostzoo.ImageError as error:
        raise HTTPException(422, str(error)) from error
    return [{"label": prediction.label, "score": prediction.score} for prediction in top]
