/* What a config takes from the model whose weights it begins with: the rules stand in the header. */
#include "train/from.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- completing -------------------------------------------------------------------------------------------------- */

/* Numbers of one value are equal, whatever their type. */
static bool equal(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (!json_is_object(a) || !json_is_object(b)) return json_equal(a, b);
    const char *key;
    json_t *value;
    if (json_object_size(a) != json_object_size(b)) return false;
    json_object_foreach((json_t *)a, key, value)
        if (!equal(value, json_object_get(b, key))) return false;
    return true;
}

/* The object that decides: rope_scaling, or rope_parameters where there is none. NULL: neither. */
static json_t *scaling_of(const json_t *config) {
    json_t *scaling = json_object_get(config, "rope_scaling"), *modern = json_object_get(config, "rope_parameters");
    return json_is_object(scaling) ? scaling : json_is_object(modern) ? modern : NULL;
}

static const char *type_of(const json_t *scaling) {
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    return type ? type : json_string_value(json_object_get(scaling, "type"));
}

static void set_absent(json_t *object, const char *key, json_t *value) {
    if (json_is_absent(object, key)) json_object_set_new(object, key, value);
    else json_decref(value);
}

/* What is wrong in what it finds is left for config_parse to say. */
static void extend_context(json_t *config, const json_t *model) {
    json_t *scaling = scaling_of(config), *before = scaling_of(model);
    const json_t *positions = json_object_get(model, "max_position_embeddings"),
                 *original = json_object_get(before, "original_max_position_embeddings");
    if (!scaling || equal(scaling, before)) return;
    if (json_is_absent(scaling, "type") && json_is_absent(scaling, "rope_type") && !json_is_absent(scaling, "factor"))
        json_object_set_new(scaling, "type", json_string("yarn"));
    const char *type = type_of(scaling);
    if (!type || strcmp(type, "yarn") != 0) return;
    if (!json_is_integer(original)) original = positions;
    if (json_is_absent(scaling, "original_max_position_embeddings") && json_is_integer(original))
        json_object_set(scaling, "original_max_position_embeddings", (json_t *)original);
    set_absent(scaling, "beta_fast", json_real(32));
    set_absent(scaling, "beta_slow", json_real(1));
    if (json_is_absent(scaling, "mscale") && json_is_absent(scaling, "mscale_all_dim")) {
        const struct model_family *family = config_family(
            json_string_value(json_object_get(model, "model_type")));
        const double mscale = family ? family->mscale : 0.707;
        json_object_set_new(scaling, "mscale", json_real(mscale));
        json_object_set_new(scaling, "mscale_all_dim", json_real(mscale));
    }
    if (!json_is_absent(config, "max_position_embeddings") &&
        !equal(json_object_get(config, "max_position_embeddings"), positions))
        return;
    const double length = floor(
        json_number_value(json_object_get(scaling, "factor")) *
        (double)json_integer_value(json_object_get(scaling, "original_max_position_embeddings")));
    if (length >= 1 && length <= INT32_MAX)
        json_object_set_new(config, "max_position_embeddings", json_integer((json_int_t)length));
}

enum status from_complete(json_t *config, const json_t *model, struct error *error) {
    if (!json_is_object(model)) return error_set(error, STATUS_INVALID, "the model's config.json is no JSON object");
    if (json_is_absent(config, "vocab_size") && !json_is_absent(model, "vocab_size"))
        json_object_set(config, "vocab_size", json_object_get(model, "vocab_size"));
    extend_context(config, model);
    return STATUS_OK;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static enum status compare_shapes(const struct config *config, const struct config *model, const char *origin,
                                  const char *folder, struct error *error) {
    if (strcmp(config->model_type, model->model_type) != 0)
        return error_set(error, STATUS_INVALID,
                         "%s: model_type: found \"%s\", expected \"%s\" as in %s, whose weights it begins with", origin,
                         config->model_type, model->model_type, folder);
    /* fewer: those of the model that are too many are left out */
    if (config->num_nextn_predict_layers > model->num_nextn_predict_layers)
        return error_set(
            error, STATUS_INVALID,
            "%s: num_nextn_predict_layers: found %lld, expected up to %lld as in %s, whose weights it begins with",
            origin, (long long)config->num_nextn_predict_layers, (long long)model->num_nextn_predict_layers, folder);
    int64_t found, expected;
    const char *key = config_shape_difference(config, model, &found, &expected);
    if (key)
        return error_set(error, STATUS_INVALID,
                         "%s: %s: found %lld, expected %lld as in %s, whose weights it begins with", origin, key,
                         (long long)found, (long long)expected, folder);
    return STATUS_OK;
}

static void list_changes(const struct config *config, const struct config *model, char changed[FROM_CHANGED]) {
    json_t *now = config_to_json(config, DTYPE_F32), *before = config_to_json(model, DTYPE_F32);
    size_t used = 0;
    const char *key;
    json_t *value;
    changed[0] = '\0';
    json_object_foreach(before, key, value) set_absent(now, key, json_null());   /* keys of either */
    json_object_foreach(now, key, value) {
        const json_t *was = json_object_get(before, key);
        if (json_is_null(value) ? !was || json_is_null(was) : was && equal(value, was)) continue;
        const int length = snprintf(changed + used, FROM_CHANGED - used, "%s%s", used ? ", " : "", key);
        if (length < 0 || used + (size_t)length >= FROM_CHANGED) break;
        used += (size_t)length;
    }
    changed[used] = '\0';
    json_decref(now);
    json_decref(before);
}

enum status from_check(const struct config *config, const char *origin, const char *folder, char changed[FROM_CHANGED],
                       struct error *error) {
    struct arena arena = {0};
    struct config model = {0};
    enum status status = config_load(&model, folder, &arena, error);
    if (status == STATUS_OK) status = compare_shapes(config, &model, origin, folder, error);
    if (status == STATUS_OK && changed) list_changes(config, &model, changed);
    config_release(&model);
    arena_free(&arena);
    return status;
}
