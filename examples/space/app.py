"""A demo with Gradio: choose a model, drop a picture. For a Space on the Hugging Face Hub, or: python app.py"""

from functools import cache

import gradio as gr

import ghostzoo

MODELS = ghostzoo.list_models()
BUNDLED = "GhostNet_x0_5_cifar10"


@cache
def load(name):
    """Each model is loaded once; a classifier may be used from many threads."""
    return ghostzoo.load(name)


def classify(image, name):
    """Return label -> score, as Gradio's Label shows it."""
    if image is None:
        raise gr.Error("Drop a picture first.")
    try:
        return {prediction.label: prediction.score for prediction in load(name)(image)}
    except ghostzoo.GhostZooError as error:
        raise gr.Error(str(error)) from error


demo = gr.Interface(
    fn=classify,
    inputs=[gr.Image(type="numpy", label="Picture"), gr.Dropdown(MODELS, value=BUNDLED, label="Model")],
    outputs=gr.Label(num_top_classes=5, label="Classes"),
    title="GhostNet",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
