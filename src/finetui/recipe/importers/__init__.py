"""Configs of other trainers as recipes, with the list of what had no equivalent.

``import_file`` is the door; each trainer is one table of keys in a module of its own.
"""

from finetui.recipe.importers.imported import SOURCES, Imported, Lost, Taken
from finetui.recipe.importers.reading import import_file, import_text

__all__ = ["SOURCES", "Imported", "Lost", "Taken", "import_file", "import_text"]
