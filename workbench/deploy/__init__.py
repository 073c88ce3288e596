"""Files that run where workbench is not installed: ONNX models and exported PyTorch programs."""

from __future__ import annotations

from workbench.deploy.export import Exported
from workbench.deploy.onnx import export_onnx
from workbench.deploy.program import export_program

__all__ = ["Exported", "export_onnx", "export_program"]
