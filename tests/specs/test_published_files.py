"""Published sizes: of models and recipes that exist here, in an order that the names promise, and with a source."""

from llmhw_helpers.costs.files import RECIPES
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.published_files import BITS_PER_WEIGHT, FILE_BYTES


def test_models_and_recipes_are_known_and_more_bits_make_larger_files():
    for name, sizes in (FILE_BYTES | BITS_PER_WEIGHT).items():
        assert set(sizes) <= set(RECIPES)
        order = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q2_K"]
        values = [sizes[recipe].known() for recipe in order if recipe in sizes]
        assert values == sorted(values, reverse=True), name
        assert len(values) > 4


def test_bytes_of_a_file_are_those_of_so_many_weights():
    for name, sizes in FILE_BYTES.items():
        for recipe, figure in sizes.items():
            assert 2 < 8 * figure.known() / model(name).n_params < 17, (name, recipe)
            assert figure.unit == "B"
