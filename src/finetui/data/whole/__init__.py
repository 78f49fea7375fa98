"""Checks of whole sets, with numpy: run in worker processes and never imported by a screen."""
