"""The papers of the families, as a card cites them."""

from __future__ import annotations

from ghostzoo.network.families import GHOSTNETV2, GHOSTNETV3, REPGHOSTNET, Family

_GHOSTNET = """\
@inproceedings{han2020ghostnet,
  title     = {GhostNet: More Features from Cheap Operations},
  author    = {Han, Kai and Wang, Yunhe and Tian, Qi and Guo, Jianyuan and Xu, Chunjing and Xu, Chang},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020},
  eprint    = {1911.11907},
  archivePrefix = {arXiv}
}"""
_OTHERS = {
    REPGHOSTNET: """\
@article{chen2022repghost,
  title   = {RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization},
  author  = {Chen, Chengpeng and Guo, Zichao and Zeng, Haien and Xiong, Pengfei and Dong, Jian},
  journal = {arXiv preprint arXiv:2211.06088},
  year    = {2022}
}""",
    GHOSTNETV2: """\
@inproceedings{tang2022ghostnetv2,
  title     = {GhostNetV2: Enhance Cheap Operation with Long-Range Attention},
  author    = {Tang, Yehui and Han, Kai and Guo, Jianyuan and Xu, Chang and Xu, Chao and Wang, Yunhe},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  eprint    = {2211.12905},
  archivePrefix = {arXiv}
}""",
    GHOSTNETV3: """\
@article{liu2024ghostnetv3,
  title   = {GhostNetV3: Exploring the Training Strategies for Compact Models},
  author  = {Liu, Zhenhua and Hao, Zhiwei and Han, Kai and Tang, Yehui and Wang, Yunhe},
  journal = {arXiv preprint arXiv:2404.11202},
  year    = {2024}
}""",
}


def citation(family: Family) -> str:
    """Return the BibTeX entry of the paper that describes ``family``, as a block of Markdown."""
    return f"```bibtex\n{_OTHERS.get(family, _GHOSTNET)}\n```"
