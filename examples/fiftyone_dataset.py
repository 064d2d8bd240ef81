"""Predictions and embeddings in FiftyOne, to look through a folder of pictures: python fiftyone_dataset.py photos"""

import sys

import fiftyone as fo

import ghostzoo


def label(folder, model="GhostNet_x0_5_cifar10"):
    """Return a dataset of the folder's pictures with `prediction` and `embedding`."""
    dataset = fo.Dataset.from_images_dir(folder)
    classifier = ghostzoo.load(model)
    paths = dataset.values("filepath")
    for sample, top in zip(dataset, classifier.predict(paths, top_k=1, on_error="return"), strict=True):
        if isinstance(top, ghostzoo.ImageError):
            sample.tags.append("unreadable")
        else:
            sample["prediction"] = fo.Classification(label=top[0].label, confidence=top[0].score)
            sample["embedding"] = classifier.embed([sample.filepath])[0]
        sample.save()
    return dataset


if __name__ == "__main__":
    fo.launch_app(label(sys.argv[1])).wait()
