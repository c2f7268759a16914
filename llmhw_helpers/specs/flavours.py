"""Flavours: the formats that quantised models come in, which program runs which of them where, and what each loses.

No two programs agree on what runs where, and it changes from release to release: so each answer names its source, and
what no source says is "unknown".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .blocks import BITSANDBYTES, block
from .dtypes import BFLOAT16, IEEE754
from .figures import Figure, look_up

VLLM = (
    "vLLM documentation, Quantization, Supported Hardware (v0.6.6 to v0.15.1 alike in these rows; "
    "its column of Arm CPUs came with pull request 34894, February 2026)"
)
VLLM_CPU_INT4 = "vLLM, issue 55613: built for AVX-512 alone on x86 (v0.28)"
VLLM_FP8 = "vLLM documentation v0.32, FP8 W8A8: compute capability 8.9 and newer; weight-only by Marlin below"
VLLM_CPU = "vLLM documentation, Installation, CPU: FP32, FP16 and BF16 on x86 and Arm"
VLLM_BF16 = "vLLM, issue 946 and pull request 2374: bf16 is refused below compute capability 8.0"
VLLM_GGUF = f"{VLLM}; its GGUF page: highly experimental and under-optimised, a plugin since pull request 39612 (2026)"
BNB = "bitsandbytes documentation v0.50, Installation: LLM.int8() from compute capability 7.5 on, NF4 from 6.0 on"
BNB_CPU = "bitsandbytes v0.50.0, README, Accelerator support: 8 and 4 bits on x86-64 (AVX2) and aarch64 CPUs"
HF = "transformers documentation, Quantization overview: the method's columns CPU and CUDA GPU"
HF_GPTQ = "transformers documentation v4.49, GPTQ: by GPTQModel on NVIDIA GPUs and on Intel and AMD CPUs"
HF_GGUF = "transformers documentation, GGUF: the file is widened on loading, but on Apple's Metal"
LLAMA_CPP = "llama.cpp README: x86 and Arm CPUs, CUDA kernels of its own, integers of 1.5 to 8 bits"
VLLM_OTHERS = (
    "vLLM documentation: Quantization, Supported Hardware, AMD GPU (v0.11.2, v0.14.0); Installation, GPU, ROCm; "
    "FP8 W8A8 (MI300X); Installation, CPU, Apple silicon: experimental, FP32 and FP16 on the CPU"
)
LLAMA_CPP_BACKENDS = "llama.cpp README, Supported backends: HIP for AMD GPUs, Metal for Apple silicon"
CUDA_GUIDE = (
    "CUDA C++ Programming Guide, Compute Capabilities: bf16 from 8.0 on, FP8 from 8.9 on, fp16 and fp32 on all here"
)
NO_SOURCE = "no source found"

SCOREBOARD = (
    "llama.cpp, tools/perplexity README, LLaMA 3 8b Scoreboard (revision f364eb6f): wikitext-2, no importance matrix; "
    "the rise over fp16 divided by fp16's perplexity"
)
AWQ_TABLE = (
    "AWQ, arXiv:2306.00978, table 4: wikitext-2, Llama-2-7B at 4 bits in groups of 128, from 5.47; "
    "GPTQ without reordering (with it 5.63)"
)
STUDY = "Kurtic et al., arXiv:2411.02355, abstract: Llama-3.1 from 8B to 405B"
LLM_INT8 = "LLM.int8(), arXiv:2208.07339, table 1: C4, 12.45 in fp32 and after with 13B parameters (6.7B: 13.30, 13.24)"
QLORA = "QLoRA, arXiv:2305.14314: no perplexity beside that of the unquantised model"
ROWS = "compressed-tensors checkpoints: a scale for each output, counted here as fp32 for d_model weights"
GROUPS = "AutoAWQ and GPTQModel checkpoints: of 128 weights, an fp16 scale and a 4-bit zero point"
GGUF_LAYOUT = "llama.cpp, src/llama-quant.cpp and ggml-common.h; see costs.files"
# The losses here were measured on models of 7 billion parameters and more. Smaller ones lose more.
MEASURED_FROM_PARAMS = 6.5e9

IMPLEMENTATIONS = ("vLLM", "llama.cpp", "transformers")
STATES = ("hardware", "fits", "trial", "no", "unknown")


@dataclass(frozen=True)
class Flavour:
    """A way to hold a model's weights.

    Attributes:
        name: as people call it.
        loss: rise of the perplexity, relative, or where its meaning says so another loss of quality.
        source: of the layout.
        bits: of a weight in the matrices of the blocks; None where `recipe` says it tensor by tensor.
        group: weights that share `scale_bits`; None for a row of a matrix.
        scale_bits: bits of scale and zero point together that a group has.
        layout: in `blocks`, for whose scales one number is not enough; it goes before group and scale.
        number: what is multiplied where the hardware can; None where weights are always widened first.
        recipe: of llama.cpp, by its name in ``costs.files``; head and embedding included. Elsewhere these have 16 bits.
        home: the implementation that it comes from, or is mostly met in.
        only: the matrices that have it, where not all do: ``"experts"`` (routed ones) or ``"inner MLPs"`` (of all
            layers but the first and the last).
    """

    name: str
    loss: Figure
    source: str
    bits: int | None = None
    group: int | None = None
    scale_bits: int = 0
    layout: str | None = None
    number: str | None = None
    recipe: str | None = None
    home: str = "vLLM"
    only: str | None = None

    def bits_per_weight(self, row: int) -> float | None:
        """Bits of a weight in a matrix whose rows have `row` weights, scales included; None where a recipe says it.

        >>> [flavour(name).bits_per_weight(4096) for name in ("bf16", "AWQ int4", "GGUF Q4_0")]
        [16.0, 4.15625, None]
        """
        if self.layout:
            return block(self.layout).bits_per_weight
        return None if self.bits is None else self.bits + self.scale_bits / (self.group or row)


@dataclass(frozen=True)
class Support:
    """Where an implementation runs a flavour.

    States: ``"hardware"``: numbers are multiplied as they are stored. ``"fits"``: they take the memory of the small
    format, and are widened for every product. ``"trial"``: runs, and the program calls it an experiment. ``"no"``;
    ``"unknown"``.

    Attributes:
        gpu: lowest compute capability and state, newest first.
        cpu: state by architecture: ``"x86"`` (with AVX-512), ``"arm"``, and ``"x86 AVX2"`` where that differs.
        others, others_source: state on GPUs that CUDA does not know, by architecture (`Accelerator.kind`); who says so.
        why: what decides it, in a sentence.
        source: of all this.
    """

    gpu: tuple[tuple[float, str], ...]
    cpu: Mapping[str, str]
    why: str
    source: str
    others: Mapping[str, str] = field(default_factory=dict)
    others_source: str = NO_SOURCE

    def state(self, device: float | str) -> str:
        """On a GPU of that compute capability or other kind, or a CPU, as in `cpu`; unknown if no row fits.

        >>> [support("vLLM", "FP8 W8A8").state(device) for device in (8.0, 9.0, "x86")]
        ['no', 'hardware', 'no']
        >>> [support("vLLM", "AWQ int4").state(device) for device in ("x86", "x86 AVX2")]
        ['fits', 'no']
        """
        if isinstance(device, str):
            states = {"x86 AVX2": self.cpu.get("x86", "unknown"), **self.cpu, **self.others}
            return states.get(device, "unknown")
        return next((state for least, state in self.gpu if device >= least), "unknown")


def _loss(value: float | None, source: str, meaning: str = "rise of the perplexity, relative") -> Figure:
    return Figure(value, "", meaning, source)


def unmeasured(source: str) -> Figure:
    """The loss of a flavour whose source gives none."""
    return _loss(None, f"{source}; no perplexity beside that of the unquantised model")


def _gguf(recipe: str, perplexity: float, rise: float) -> Flavour:
    loss = _loss(rise / (perplexity - rise), SCOREBOARD)
    return Flavour(f"GGUF {recipe}", loss, GGUF_LAYOUT, recipe=recipe, home="llama.cpp")


_NONE = _loss(0.0, "by definition: the format that models are published in")
_ACCURACY = "fall of the accuracy in benchmarks, relative"
_LOSSLESS, _SOME = _loss(0.0, STUDY, f"{_ACCURACY}: lossless"), _loss(0.03, STUDY, f"{_ACCURACY}: 1 to 3%")
FLAVOURS = {
    each.name: each
    for each in (
        Flavour("bf16", _NONE, BFLOAT16, bits=16, number="bf16"),
        Flavour("fp16", _NONE, IEEE754, bits=16, number="fp16"),
        Flavour("fp32", _NONE, IEEE754, bits=32, number="fp32"),
        Flavour("FP8 W8A8", _LOSSLESS, ROWS, bits=8, scale_bits=32, number="fp8_e4m3"),
        Flavour("INT8 W8A8", _SOME, ROWS, bits=8, scale_bits=32, number="int8"),
        Flavour("LLM.int8()", _loss(0.0, LLM_INT8), LLM_INT8, bits=8, scale_bits=32, home="transformers"),
        Flavour("AWQ int4", _loss(5.60 / 5.47 - 1, AWQ_TABLE), GROUPS, bits=4, group=128, scale_bits=20),
        Flavour("GPTQ int4", _loss(5.69 / 5.47 - 1, AWQ_TABLE), GROUPS, bits=4, group=128, scale_bits=20),
        Flavour("NF4", _loss(None, QLORA), BITSANDBYTES, bits=4, layout="NF4, double", home="transformers"),
        _gguf("Q8_0", 6.234284, 0.002650),
        _gguf("Q6_K", 6.253382, 0.021748),
        _gguf("Q5_K_M", 6.288607, 0.056974),
        _gguf("Q4_K_M", 6.407115, 0.175482),
        _gguf("Q4_0", 6.700147, 0.468514),
    )
}

_ALL = ((7.0, "hardware"),)
_EVERY_CPU, _FITS_CPU, _NO_CPU = ({"x86": state, "arm": state} for state in ("hardware", "fits", "no"))
_X86_FITS = {"x86": "fits", "x86 AVX2": "no", "arm": "no"}
_BF16 = "bf16 arithmetic begins with Ampere (8.0); whether a CPU has it differs"
_SIXTEEN = "fp16 is multiplied by every card here; a CPU may widen it"
_ANYWHERE = "fp32 is multiplied everywhere"
_WIDEN = "4-bit weights are widened to 16 bits for every product: they save memory and traffic, not arithmetic"
_BLOCKS = "blocks are unpacked in the kernel, and multiplied with activations that are rounded to 8 bits"
_FP8 = (
    "FP8 arithmetic begins with Ada (8.9); vLLM can widen FP8 weights on older cards (Marlin), another flavour: W8A16"
)
_INT8 = "int8 tensor cores begin with Turing (7.5); Volta's DP4A is not used"
_WEIGHTS_ONLY = ((7.0, "fits"),)
_MARLIN = "with the fast Marlin kernels from Ampere on (in recent releases from Turing on); on CPUs with AVX-512 alone"
SUPPORT = {
    ("vLLM", "bf16"): Support(((8.0, "hardware"), (7.0, "no")), _FITS_CPU, _BF16, f"{VLLM_BF16}; {VLLM_CPU}"),
    ("vLLM", "fp16"): Support(_ALL, _FITS_CPU, _SIXTEEN, f"{CUDA_GUIDE}; {VLLM_CPU}"),
    ("vLLM", "fp32"): Support(_ALL, _EVERY_CPU, _ANYWHERE, f"{CUDA_GUIDE}; {VLLM_CPU}"),
    ("vLLM", "FP8 W8A8"): Support(((8.9, "hardware"), (7.0, "no")), _NO_CPU, _FP8, f"{VLLM}; {VLLM_FP8}"),
    ("vLLM", "INT8 W8A8"): Support(((7.5, "hardware"), (7.0, "no")), _EVERY_CPU, _INT8, VLLM),
    ("vLLM", "LLM.int8()"): Support((), {}, "vLLM's page on bitsandbytes shows 4 bits only", NO_SOURCE),
    ("vLLM", "AWQ int4"): Support(
        ((7.5, "fits"), (7.0, "no")),
        _X86_FITS,
        f"{_WIDEN}; not on Volta, and {_MARLIN}",
        f"{VLLM}; {VLLM_CPU_INT4}",
    ),
    ("vLLM", "GPTQ int4"): Support(_WEIGHTS_ONLY, _X86_FITS, f"{_WIDEN}; {_MARLIN}", f"{VLLM}; {VLLM_CPU_INT4}"),
    ("vLLM", "NF4"): Support(_WEIGHTS_ONLY, _NO_CPU, _WIDEN, VLLM),
    ("transformers", "bf16"): Support(((8.0, "hardware"), (7.0, "no")), _FITS_CPU, _BF16, CUDA_GUIDE),
    ("transformers", "fp16"): Support(_ALL, _FITS_CPU, _SIXTEEN, CUDA_GUIDE),
    ("transformers", "fp32"): Support(_ALL, _EVERY_CPU, _ANYWHERE, CUDA_GUIDE),
    ("transformers", "LLM.int8()"): Support(
        ((7.5, "fits"), (7.0, "no")),
        _FITS_CPU,
        "int8 products for most of it, and 16 bits for the outliers: made to fit, not to be fast",
        f"{BNB}; {BNB_CPU}; LLM.int8(), arXiv:2208.07339",
    ),
    ("transformers", "FP8 W8A8"): Support(((8.9, "unknown"), (7.0, "no")), {}, _FP8, CUDA_GUIDE),
    ("transformers", "NF4"): Support(_WEIGHTS_ONLY, _FITS_CPU, _WIDEN, f"{BNB}; {BNB_CPU}"),
    ("transformers", "AWQ int4"): Support(
        ((8.0, "fits"), (7.0, "unknown")),
        {"x86": "fits", "arm": "unknown"},
        _WIDEN,
        f"{HF}; from which card on is not said",
    ),
    ("transformers", "GPTQ int4"): Support(
        ((8.0, "fits"), (7.0, "unknown")), {"x86": "fits", "arm": "unknown"}, _WIDEN, HF_GPTQ
    ),
    ("llama.cpp", "fp16"): Support(_ALL, _FITS_CPU, _SIXTEEN, LLAMA_CPP),
    ("llama.cpp", "fp32"): Support(_ALL, _EVERY_CPU, _ANYWHERE, LLAMA_CPP),
}
for _name, _flavour in FLAVOURS.items():
    if _name.startswith("GGUF"):
        SUPPORT["llama.cpp", _name] = Support(_WEIGHTS_ONLY, _FITS_CPU, _BLOCKS, LLAMA_CPP)
        SUPPORT["vLLM", _name] = Support(((7.0, "trial"),), _NO_CPU, "vLLM calls GGUF an experiment", VLLM_GGUF)
        SUPPORT["transformers", _name] = Support(
            ((7.0, "no"),), _NO_CPU, "the blocks are widened on loading: nothing is saved", HF_GGUF
        )
for _name in ("FP8 W8A8", "INT8 W8A8", "LLM.int8()", "AWQ int4", "GPTQ int4", "NF4"):
    SUPPORT["llama.cpp", _name] = Support(((7.0, "no"),), _NO_CPU, "llama.cpp reads GGUF files alone", LLAMA_CPP)


def _on_others(program: str, name: str) -> dict[str, str]:
    """States on GPUs that CUDA does not know, by architecture: AMD's two, and Apple's."""
    if program == "llama.cpp":
        state = {"fp16": "hardware", "fp32": "hardware"}.get(name, "fits" if name.startswith("GGUF") else "no")
        return dict.fromkeys(("CDNA 2", "CDNA 3", "Apple GPU"), state)
    if program != "vLLM" or name == "LLM.int8()":
        return {}
    if name == "FP8 W8A8":  # units for it are new in CDNA 3
        return {"CDNA 2": "no", "CDNA 3": "hardware", "Apple GPU": "no"}
    state = "hardware" if name in ("bf16", "fp16", "fp32") else "trial" if name.startswith("GGUF") else "no"
    return {"CDNA 2": state, "CDNA 3": state, "Apple GPU": "no"}


for _key, _known in list(SUPPORT.items()):
    _source = LLAMA_CPP_BACKENDS if _key[0] == "llama.cpp" else VLLM_OTHERS
    SUPPORT[_key] = replace(_known, others=_on_others(*_key), others_source=_source)
_UNKNOWN = Support((), {}, "nobody was found who says so", NO_SOURCE)


def flavour(name: str) -> Flavour:
    """The flavour called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, FLAVOURS, "flavour")


def support(implementation: str, name: str) -> Support:
    """Where `implementation` runs the flavour `name`; all unknown where no source says.

    Raises:
        UnknownName: no such implementation or flavour; the message names the nearest.
    """
    program = look_up(implementation, {each: each for each in IMPLEMENTATIONS}, "implementation")
    return SUPPORT.get((program, flavour(name).name), _UNKNOWN)
