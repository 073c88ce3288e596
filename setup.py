"""Builds cpp/*.cpp into workbench._core; every other fact about the package is in pyproject.toml."""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

flags = ["-O3"]
if os.environ.get("WORKBENCH_WERROR"):
    flags += ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

core = Pybind11Extension(
    "workbench._core",
    sorted(glob("cpp/*.cpp")),
    depends=sorted(glob("cpp/*.hpp")),
    cxx_std=17,
    extra_compile_args=flags,
)

with ParallelCompile("WORKBENCH_BUILD_JOBS"):
    setup(ext_modules=[core], cmdclass={"build_ext": build_ext})
