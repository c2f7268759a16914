"""llama.cpp as a contestant: the course's model as a GGUF file of another format, and batches through its C interface.

Needs llama-cpp-python, which compiles for some ten minutes (on machines with AMX set
CMAKE_ARGS="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8", or it crashes in batches).
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type


def write_gguf(source, target, kind):
    """The weights of the GGUF file `source` as a new file, its matrices in the format `kind`: "F32", "BF16", "Q8_0"."""
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    writer = gguf.GGUFWriter(target, fields.pop("general.architecture"))
    for name, value in fields.items():
        if not name.startswith("GGUF.") and name not in ("general.file_type", "general.quantization_version"):
            field = reader.fields[name]
            writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}" if kind != "F32" else "ALL_F32"])
    if kind.startswith("Q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        to = Type[kind] if values.ndim > 1 else Type.F32
        writer.add_tensor(tensor.name, gguf.quantize(values, to), raw_dtype=to)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()


class LlamaCpp:
    """A GGUF file in llama.cpp: `n_seqs` places of `context` tokens each, keys and values in fp32."""

    def __init__(self, path, threads, n_seqs, context):
        import llama_cpp as lib

        self.lib, self.n_seqs = lib, n_seqs
        lib.llama_log_set(quiet(lib), None)
        model = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(path).encode(), model)
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = n_seqs * context, n_seqs * context, n_seqs
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = Type.F32.value
        self.context = lib.llama_init_from_model(self.model, settings)
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(n_seqs * context, 0, 1)

    def forget(self, seq=None):
        """Empty the cache, of one sequence or of all."""
        memory = self.lib.llama_get_memory(self.context)
        if seq is None:
            self.lib.llama_memory_clear(memory, True)
        else:
            self.lib.llama_memory_seq_rm(memory, seq, -1, -1)

    def read(self, news):
        """News are (sequence, position, tokens); the logits after the last token of each."""
        batch, i, last = self.batch, 0, []
        for seq, position, tokens in news:
            for j, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position + j, 1, seq
                batch.logits[i] = j == len(tokens) - 1
                i += 1
            last.append(i - 1)
        batch.n_tokens = i
        if code := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode says {code}")
        rows = [self.lib.llama_get_logits_ith(self.context, at) for at in last]
        return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows])

    def serve(self, prompts, counts):
        """The greedy answers, `counts[i]` tokens to `prompts[i]`: a place that becomes free is taken by the next."""
        answers, active, waiting = [[] for _ in prompts], {}, list(range(len(prompts)))
        self.forget()
        while waiting or active:
            while waiting and len(active) < self.n_seqs:
                place = next(seq for seq in range(self.n_seqs) if seq not in active)
                active[place] = waiting.pop(0)
            news = []
            for seq, i in active.items():
                n = len(answers[i])
                news.append((seq, len(prompts[i]) + n - 1, answers[i][-1:]) if n else (seq, 0, prompts[i]))
            best = self.read(news).argmax(-1)
            for (seq, i), token in zip(list(active.items()), best.tolist(), strict=True):
                answers[i].append(token)
                if len(answers[i]) == counts[i]:
                    del active[seq]
                    self.forget(seq)
        return answers


def quiet(lib):
    """A log that keeps nothing; kept itself, as C calls it."""
    if not hasattr(lib, "_quiet"):
        lib._quiet = lib.llama_log_callback(lambda level, text, data: None)
    return lib._quiet
