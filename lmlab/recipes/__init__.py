"""Recipes: every choice of a lesson as a typed, frozen, checked config, read from YAML."""

# the classes that decide which training a recipe gets; LESSONS has all of them
from lmlab.recipes.lessons import (
    LESSONS,
    FromScratch,
    FullFinetune,
    InstructionFinetune,
    LoraFinetune,
    ReasoningFinetune,
    Recipe,
)
from lmlab.recipes.loading import (
    RecipeError,
    find_lesson,
    find_recipe,
    is_shipped,
    list_recipes,
    load_recipe,
    parse_settings,
)
