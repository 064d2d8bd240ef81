"""A page with Streamlit: streamlit run streamlit_app.py"""

import streamlit as st

import ghostzoo

st.title("GhostNet")
BUNDLED = "GhostNet_x0_5_cifar10"
models = ghostzoo.list_models()
name = st.selectbox("Model", models, index=models.index(BUNDLED))


@st.cache_resource
def load(name):
    """One classifier for all visitors."""
    return ghostzoo.load(name)


for file in st.file_uploader("Pictures", accept_multiple_files=True):
    try:
        top = load(name)(file.getvalue())
    except ghostzoo.GhostZooError as error:
        st.error(f"{file.name}: {error}")
        continue
    st.image(file, width=240)
    st.bar_chart({prediction.label: prediction.score for prediction in top}, horizontal=True)
