/* Pre-tokenizers: how a text is cut into pieces before byte pairs are merged (spec/formats.md sections 2.3 to 2.5).
 * Each is a scanner written by hand over tables of Unicode 16.0 that a tool generates (text/unicode.h); nothing
 * interprets regular expressions. */
#ifndef DEEPSEEK_TEXT_PRETOKENIZE_H
#define DEEPSEEK_TEXT_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "io/json.h"

enum pipeline {
    PIPELINE_WHOLE,     /* ByteLevel without regex, or none at all: the text is one piece */
    PIPELINE_GPT2,      /* ByteLevel with use_regex */
    PIPELINE_V1,        /* DeepSeek LLM, MoE-16B, V2: section 2.4 */
    PIPELINE_CODER_V1,  /* DeepSeek Coder: section 2.4 */
    PIPELINE_V3,        /* V3 and V4: section 2.3 */
    PIPELINE_COUNT
};

const char *pipeline_name(enum pipeline pipeline);            /* "bytes", "gpt2", "v1", "coder", "v3" */

/* Which pipeline the `pre_tokenizer` of a tokenizer.json is, by exact comparison of its steps and patterns (CR and LF
 * raw or escaped). STATUS_UNSUPPORTED names the step that was found and what was expected. NULL or null is
 * PIPELINE_WHOLE. */
enum status pipeline_recognise(enum pipeline *pipeline, const json_t *pre_tokenizer, struct error *error);
/* The `pre_tokenizer` object of a pipeline as the published files write it. New reference. */
json_t *pipeline_to_json(enum pipeline pipeline);

/* The pieces of a text, which must be well-formed UTF-8 (PIPELINE_WHOLE takes any bytes). They are not empty, follow
 * each other without gap and cover the text. Scanning is linear in the text whatever it holds (a megabyte of blanks
 * too). */
struct pieces {
    enum pipeline pipeline;
    const uint8_t *text;
    size_t size, at;         /* the next piece begins at `at` */
};
void pieces_begin(struct pieces *pieces, enum pipeline pipeline, const void *text, size_t size);
/* The next piece is text[*begin .. *end); false at the end of the text. */
bool pieces_next(struct pieces *pieces, size_t *begin, size_t *end);

/* The largest cut in [1, limit] such that the pieces of text[0..cut) followed by those of text[cut..size) are the
 * pieces of the whole; 0 where the scanner sees none within some kilobytes before `limit`. It is found by looking at
 * the text around it alone. */
size_t pieces_safe_cut(enum pipeline pipeline, const void *text, size_t size, size_t limit);

#endif
