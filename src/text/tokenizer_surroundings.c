/* What surrounds the model in a tokenizer.json: normalizer, pre_tokenizer, post_processor and decoder, each as this
 * program can do it or refused. */
#include <string.h>

#include "text/tokenizer_reader.h"

static const char *type_of(const json_t *value) {
    if (!value || json_is_null(value)) return "none";
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "one without a type";
}

static bool is_none(const json_t *value) { return !value || json_is_null(value); }

static bool is_type(const json_t *value, const char *type) {
    const json_t *found = json_object_get(value, "type");
    return json_is_string(found) && strcmp(json_string_value(found), type) == 0;
}
static bool is_no_normalizer(const json_t *value) {
    if (is_none(value)) return true;
    return is_type(value, "Sequence") && json_is_array(json_object_get(value, "normalizers")) &&
           json_array_size(json_object_get(value, "normalizers")) == 0;
}

static enum status check_characters(const struct reader *r, const json_t *pre) {
    if (!is_type(pre, "Split")) return reader_unsupported(r, "pre_tokenizer", type_of(pre));
    const char *pattern = json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    if (!pattern || strcmp(pattern, ANY_CHARACTER))
        return reader_unsupported(r, "the pattern of the pre_tokenizer Split", pattern ? pattern : "(not a Regex)");
    if (!behavior || strcmp(behavior, "Isolated"))
        return reader_unsupported(r, "the behavior of the pre_tokenizer Split", behavior ? behavior : "(absent)");
    if (json_is_true(json_object_get(pre, "invert")))
        return reader_unsupported(r, "the pre_tokenizer Split with", "invert");
    return STATUS_OK;
}

/* One item of a template: the name of a special token in *name, or of a sequence in *sequence. */
static void template_item(const json_t *item, const char **name, const char **sequence) {
    *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    *sequence = json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
}

/* TemplateProcessing of BOS (or nothing) and the text: `single` [BOS] $A, `pair` [BOS] $A [BOS] $B. */
static enum status read_template(struct reader *r, const json_t *template) {
    const json_t *single = json_object_get(template, "single"), *pair = json_object_get(template, "pair");
    const char *bos = NULL, *name, *sequence;
    size_t count = json_array_size(single), i = 0;
    bool exact = json_is_array(single);
    if (count == 2) template_item(json_array_get(single, i++), &bos, &sequence);
    exact = exact && count >= 1 && count <= 2 && (count == 1 || bos);
    template_item(json_array_get(single, i), &name, &sequence);
    exact = exact && sequence && strcmp(sequence, "A") == 0;
    if (pair && !json_is_null(pair)) {
        char expected = 'A';
        for (i = 0; i < json_array_size(pair) && exact; i++) {
            template_item(json_array_get(pair, i), &name, &sequence);
            if (sequence) exact = expected <= 'B' && sequence[0] == expected++ && sequence[1] == 0;
            else exact = name && bos && strcmp(name, bos) == 0 && i + 1 < json_array_size(pair);
        }
    }
    if (!exact)
        return reader_unsupported(
            r, "post_processor",
            "TemplateProcessing other than one that puts a single special token in front of the text");
    if (!bos) return STATUS_OK;
    const json_t *ids = json_object_get(json_object_get(json_object_get(template, "special_tokens"), bos), "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= VOCABULARY_LIMIT)
        return error_set(r->error, STATUS_INVALID, "%s: post_processor: special_tokens has no single id for \"%.64s\"",
                         r->cursor.origin, bos);
    if (r->template_bos >= 0) return reader_unsupported(r, "post_processor", "Sequence with two TemplateProcessing");
    r->template_bos = (int32_t)json_integer_value(id);
    return STATUS_OK;
}

static enum status read_post_processor(struct reader *r, const json_t *post, int depth) {
    if (is_none(post) || is_type(post, "ByteLevel")) return STATUS_OK;   /* ByteLevel changes offsets alone */
    if (is_type(post, "TemplateProcessing")) return read_template(r, post);
    const json_t *processors = json_object_get(post, "processors");
    if (!is_type(post, "Sequence") || !json_is_array(processors) || depth > 0)
        return reader_unsupported(r, "post_processor", type_of(post));
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)processors, i, item) {
        enum status status = read_post_processor(r, item, depth + 1);
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

static enum status check_surroundings(struct reader *r, const json_t *normalizer, const json_t *pre, const json_t *post,
                                      const json_t *decoder) {
    bool characters = r->t->kind == TOKENIZER_CHARACTERS;
    if (!is_no_normalizer(normalizer)) return reader_unsupported(r, "normalizer", type_of(normalizer));
    enum status status = read_post_processor(r, post, 0);
    if (status != STATUS_OK) return status;
    if (characters) status = check_characters(r, pre);
    else if (is_none(pre))
        return reader_unsupported(r, "pre_tokenizer", "none"); /* nothing would turn characters into bytes */
    else if ((status = pipeline_recognise(&r->t->pipeline, pre, r->error)) != STATUS_OK)
        error_prefix(r->error, "%s", r->cursor.origin);
    if (status == STATUS_OK && !is_type(decoder, characters ? "Fuse" : "ByteLevel"))
        status = reader_unsupported(r, "decoder", type_of(decoder));
    return status;
}

enum status reader_surroundings(struct reader *r) {
    json_t *values[ROOT_KEYS] = { 0 };
    enum status status = STATUS_OK;
    for (int key = NORMALIZER; key <= DECODER && status == STATUS_OK; key++)
        status = reader_value(r, r->root[key], &values[key]);
    if (status == STATUS_OK)
        status = check_surroundings(r, values[NORMALIZER], values[PRE_TOKENIZER], values[POST_PROCESSOR],
                                    values[DECODER]);
    for (int key = 0; key < ROOT_KEYS; key++) json_decref(values[key]);
    return status;
}
