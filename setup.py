"""Builds the native extension `learnalign._core`; everything else about the package is in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup

core = Pybind11Extension(
    "learnalign._core",
    sorted(path for path in glob("csrc/**/*.cpp", recursive=True) if "/tests/" not in path),
    depends=sorted(glob("csrc/**/*.hpp", recursive=True)),
    include_dirs=["csrc"],
    cxx_std=20,
    # No -march=native: SIMD paths are chosen at run time. No fused a*b+c: every path must give the same bits.
    extra_compile_args=["-O3", "-g0", "-ffp-contract=off", "-Wall", "-Wextra", "-pthread"],
    extra_link_args=["-pthread"],
)

setup(
    packages=["learnalign.kernels", *find_packages(include=["learnalign", "learnalign.*"])],
    package_dir={"learnalign": "learnalign", "learnalign.kernels": "kernels"},
    ext_modules=[core],
)
