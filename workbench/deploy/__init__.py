"""Files that run where workbench is not installed: ONNX models and exported PyTorch programs."""

from __future__ import annotations

from workbench.deploy.engine import OnnxRuntime
from workbench.deploy.export import Exported
from workbench.deploy.int8 import Int8, Quantized
from workbench.deploy.onnx import export_onnx, made_by
from workbench.deploy.program import export_program

__all__ = ["Exported", "Int8", "OnnxRuntime", "Quantized", "export_onnx", "export_program", "made_by"]
