/* Making the `bytes` and `characters` tokenizers: their tokenizer.json is written and read, so that what was made and
 * what is loaded are the same thing. */
#include <stdio.h>
#include <stdlib.h>

#include "io/json.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer_parts.h"

enum status character_counts_add(struct character_counts *counts, const void *text, size_t size, struct error *error) {
    if (!counts->counts) counts->counts = calloc(CHARACTER_LIMIT, sizeof *counts->counts);
    if (!counts->counts) return error_set(error, STATUS_NO_MEMORY, "no memory left to count characters");
    const uint8_t *bytes = text;
    for (size_t at = 0, step; at < size; at += step) {
        bool replaced;
        counts->counts[utf8_next(bytes + at, size - at, &step, &replaced)]++;
        counts->replaced += replaced;
    }
    return STATUS_OK;
}

void character_counts_free(struct character_counts *counts) {
    free(counts->counts);
    *counts = (struct character_counts){0};
}

/* ---- writing tokenizer.json -------------------------------------------------------------------------------------- */

static void put_begin(FILE *out, int64_t end_of_document) {
    fprintf(out,
            "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n    {\n "
            "     \"id\": %lld,\n      \"content\": \"" END_OF_DOCUMENT "\",\n"
            "      \"single_word\": false,\n      \"lstrip\": false,\n      \"rstrip\": false,\n      \"normalized\": "
            "false,\n      \"special\": true\n    }\n  ],\n  \"normalizer\": null,\n",
            (long long)end_of_document);
}

static void put_character(FILE *out, uint32_t character, int64_t id) {
    char text[4];
    fputs(id > 0 ? ",\n      " : "\n      ", out);
    json_put_string(out, text, utf8_put(character, text));
    fprintf(out, ": %lld", (long long)id);
}

static enum status make(struct tokenizer **tokenizer, FILE *out, char **text, size_t *size, const char *name,
                        struct error *error) {
    static const char config[] = "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  "
                                 "\"clean_up_tokenization_spaces\": false,\n  \"eos_token\": \"" END_OF_DOCUMENT
                                 "\"\n}\n";
    bool written = !ferror(out);
    written = fclose(out) == 0 && written;
    enum status status = written
                             ? tokenizer_parse(tokenizer, *text, *size, config, sizeof config - 1, name, error)
                             : error_set(error, STATUS_NO_MEMORY, "no memory left to make the tokenizer `%s`", name);
    free(*text);
    return status;
}

/* The two below write what json_format would write for the same values. */
enum status tokenizer_create_bytes(struct tokenizer **tokenizer, struct error *error) {
    *tokenizer = NULL;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return error_set(error, STATUS_NO_MEMORY, "no memory left to make the tokenizer `bytes`");
    uint32_t alphabet[256];
    byte_alphabet(alphabet);
    put_begin(out, 256);
    fputs("  \"pre_tokenizer\": {\n    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": false,\n    "
          "\"trim_offsets\": true,\n    \"use_regex\": false\n  },\n  \"post_processor\": null,\n"
          "  \"decoder\": {\n    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": true,\n    \"trim_offsets\": "
          "true,\n    \"use_regex\": true\n  },\n"
          "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    "
          "\"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
          "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {",
          out);
    int64_t id = 0;
    for (int printable = 1; printable >= 0; printable--) {
        for (int byte = 0; byte < 256; byte++) {
            if (byte_is_printable(byte) == printable) put_character(out, alphabet[byte], id++);
        }
    }
    fputs("\n    },\n    \"merges\": []\n  }\n}\n", out);
    return make(tokenizer, out, &text, &size, "bytes", error);
}

enum status tokenizer_create_characters(struct tokenizer **tokenizer, const struct character_counts *counts,
                                        struct error *error) {
    *tokenizer = NULL;
    int64_t characters = 0, id = 0;
    for (uint32_t c = 0; counts->counts && c < CHARACTER_LIMIT; c++) characters += counts->counts[c] > 0;
    if (characters == 0) return error_set(error, STATUS_INVALID, "no text to take characters from");
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return error_set(error, STATUS_NO_MEMORY, "no memory left to make the tokenizer `characters`");
    put_begin(out, characters);
    fputs("  \"pre_tokenizer\": {\n    \"type\": \"Split\",\n    \"pattern\": {\n      \"Regex\": \"[\\\\s\\\\S]\"\n   "
          " },\n    \"behavior\": \"Isolated\",\n    \"invert\": false\n  },\n"
          "  \"post_processor\": null,\n  \"decoder\": {\n    \"type\": \"Fuse\"\n  },\n  \"model\": {\n    \"type\": "
          "\"WordLevel\",\n    \"vocab\": {",
          out);
    for (uint32_t c = 0; c < CHARACTER_LIMIT; c++) {
        if (counts->counts[c] > 0) put_character(out, c, id++);
    }
    /* The key unk_token is required by the library; a name outside the vocabulary makes an unknown character an error,
     * there as here. */
    fputs("\n    },\n    \"unk_token\": \"" UNKNOWN_NAME "\"\n  }\n}\n", out);
    return make(tokenizer, out, &text, &size, "characters", error);
}
