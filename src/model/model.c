/* The model as a description: parameters declared block by block. */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/blocks.h"
#include "model/expert_cache.h"

const struct block *const attention_blocks[] = {
    [ATTENTION_GQA] = &attention_gqa_block, [ATTENTION_MLA] = &attention_mla_block};
const struct block *const ffn_blocks[] = {[FFN_DENSE] = &ffn_dense_block, [FFN_MOE] = &ffn_moe_block};
const struct residual *const residuals[] = {[RESIDUAL_ADD] = &residual_add};

/* of activations: the released code divides by no smaller one (spec/v1-v3.md section 4.2) */
#define FP8_LEAST_AMAX 1e-4f

/* ---- declaration ------------------------------------------------------------------------------------------------- */

void *model_describe(struct model *model, size_t bytes) {
    void *record = model->incomplete ? NULL : arena_alloc(&model->arena, bytes);   /* what is half there stays so */
    model->incomplete = !record;
    return record;
}

/* A list with room for one more: of twice the length where it is full. The arena keeps the old ones, which together are
 * no larger. */
static void *with_room(struct model *model, void *list, int count) {
    if (count & (count - 1)) return list;
    void *longer = model_describe(model, (size_t)(count ? 2 * count : 1) * sizeof(void *));
    return longer && count ? memcpy(longer, list, (size_t)count * sizeof(void *)) : longer;
}

void model_declare_name(struct model *model, const struct layer *layer, struct parameter *p,
                        const struct parameter_name *declaration) {
    struct parameter_name *name = model_describe(model, sizeof *name);
    if (!name || !(model->names = with_room(model, model->names, model->name_count))) return;
    *name = *declaration;
    name->parameter = p;
    name->name = arena_printf(&model->arena, "%s%s", layer ? layer->prefix : "", declaration->name);
    if (!name->name) {
        model->incomplete = true;
        return;
    }
    if (p) {
        struct parameter_name **end = &p->names;
        while (*end) end = &(*end)->next;
        *end = name;
    }
    model->names[model->name_count++] = name;
}

struct parameter *model_declare(struct model *model, const struct layer *layer, const struct parameter *declaration) {
    struct parameter *p = model_describe(model, sizeof *p);
    if (!p || !(model->parameters = with_room(model, model->parameters, model->parameter_count))) return NULL;
    *p = *declaration;
    p->layer = layer ? layer->index : -1;
    p->count = p->shape[0] * (p->shape[1] ? p->shape[1] : 1);
    p->compute = p->products == PRODUCTS_MODEL        ? model->compute
                 : p->products == PRODUCTS_ACTIVATION ? compute_unquantised(model->compute)
                                                      : COMPUTE_F32;
    p->least_amax = FP8_LEAST_AMAX;
    /* What an FP8 checkpoint was made for is how its own code rounds the activations: powers of two everywhere, or
     * nowhere. */
    if (model->config.quantization.fp8) p->x_power_of_two = model->config.quantization.power_of_two;
    model_declare_name(model, layer, p, &(struct parameter_name){.name = declaration->name});
    if (!p->names) return NULL;
    p->name = p->names->name;
    return model->parameters[model->parameter_count++] = p;
}

struct parameter *model_declare_matrix(struct model *model, const struct layer *layer, enum parameter_owner owner,
                                       const char *name, int64_t out, int64_t in) {
    return model_declare(model, layer, &(struct parameter){.owner = owner, .name = name, .shape = {out, in}});
}

struct parameter *model_declare_norm(struct model *model, const struct layer *layer, enum parameter_owner owner,
                                     const char *name, int64_t width) {
    return model_declare(model, layer,
                         &(struct parameter){.owner = owner,
                                             .name = name,
                                             .kind = PARAMETER_VECTOR,
                                             .shape = {width},
                                             .update = UPDATE_ELEMENTS,
                                             .undecayed = true,
                                             .initial = INITIAL_CONSTANT,
                                             .constant = 1});
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(struct parameter_name *const *)a)->name, (*(struct parameter_name *const *)b)->name);
}

static int name_against(const void *text, const void *name) {
    return strcmp(text, (*(struct parameter_name *const *)name)->name);
}

void model_sort_names(struct model *model) {
    qsort(model->names, (size_t)model->name_count, sizeof *model->names, by_name);
}

const struct parameter_name *model_name(const struct model *model, const char *name) {
    struct parameter_name **found = bsearch(name, model->names, (size_t)model->name_count, sizeof *model->names,
                                            name_against);
    return found ? *found : NULL;
}

struct parameter *model_parameter(const struct model *model, const char *name) {
    const struct parameter_name *found = model_name(model, name);
    return found && found->parameter && found == found->parameter->names ? found->parameter : NULL;
}

static void declare_layer(struct model *model, struct layer *layer) {
    const struct residual *residual = layer->residual;
    layer->around_attention = residual->declare(model, layer, OWNER_ATTENTION, "input_layernorm.weight");
    layer->attention->declare(model, layer);
    layer->around_ffn = residual->declare(model, layer, OWNER_FFN, "post_attention_layernorm.weight");
    layer->ffn->declare(model, layer);
}

static void declare_modules(struct model *model) {
    const int64_t depths = model->config.num_nextn_predict_layers;
    if (!depths || !(model->mtp = model_describe(model, (size_t)depths * sizeof *model->mtp))) return;
    for (int64_t k = 0; k < depths; k++) {
        model->mtp[k] = (struct mtp_module){.layer = &model->layers[model->config.num_hidden_layers + k]};
        mtp_declare_input(model, &model->mtp[k]);
        declare_layer(model, model->mtp[k].layer);
        model->mtp[k].end = model->mtp[k].layer->residual->declare(model, model->mtp[k].layer, OWNER_MODULE,
                                                                   "shared_head.norm.weight");
    }
}

static void describe_layers(struct model *model) {
    const int64_t layers = config_layers(&model->config);
    model->layers = model_describe(model, (size_t)layers * sizeof *model->layers);
    for (int i = 0; model->layers && i < layers; i++) {
        const struct layer_plan *plan = &model->config.layers[i];
        model->layers[i] = (struct layer){
            .index = i,
            .prefix = arena_printf(&model->arena, "model.layers.%d.", i),
            .plan = plan,
            .attention = attention_blocks[plan->attention],
            .ffn = ffn_blocks[plan->ffn],
            .residual = residuals[plan->residual],
        };
        if (!model->layers[i].prefix) model->incomplete = true;
    }
}

static enum status declare_all(struct model *model, struct error *error) {
    const struct config *config = &model->config;
    model->residual = residuals[config->layers[0].residual];
    for (int64_t i = 0; i < config_layers(config); i++) {
        const struct layer_plan *plan = &config->layers[i];
        if (residuals[plan->residual]->width(config) != model->residual->width(config))
            return error_set(error, STATUS_INVALID, "layer %lld: residual %s has another width than %s of layer 0",
                             (long long)i, residuals[plan->residual]->name, model->residual->name);
        if (plan->window || plan->compression)
            return error_set(error, STATUS_UNSUPPORTED,
                             "layer %lld: attention %s reads every key as it is, found a window of %lld and a "
                             "compression by %lld in the plan, expected none",
                             (long long)i, attention_blocks[plan->attention]->name, (long long)plan->window,
                             (long long)plan->compression);
    }
    describe_layers(model);
    model->embedding = model_declare(model, NULL,
                                     &(struct parameter){.name = "model.embed_tokens.weight",
                                                         .kind = PARAMETER_TABLE,
                                                         .shape = {config->vocab_size, config->hidden_size},
                                                         .update = UPDATE_ELEMENTS});
    for (int64_t i = 0; !model->incomplete && i < config->num_hidden_layers; i++)
        declare_layer(model, &model->layers[i]);
    model->end = model->residual->declare(model, NULL, OWNER_MODEL, "model.norm.weight");
    model->head = model_declare(model, NULL,
                                &(struct parameter){.name = "lm_head.weight",
                                                    .shape = {config->vocab_size, config->hidden_size},
                                                    .update = UPDATE_ELEMENTS,
                                                    .products = PRODUCTS_ACTIVATION});
    if (!model->incomplete) declare_modules(model);
    if (model->incomplete) return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
    model_sort_names(model);
    return STATUS_OK;
}

enum status model_create(struct model **out, struct config *config, const struct kernels *kernels, struct pool *pool,
                         enum compute compute, struct error *error) {
    if (config->vocab_size < 1)
        return error_set(error, STATUS_INVALID, "config: vocab_size is missing, expected the number of token ids");
    struct error local;
    if (!error) error = &local;
    struct model *model = calloc(1, sizeof *model);
    if (!model) return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
    model->config = *config;
    model->kernels = kernels;
    model->pool = pool;
    model->compute = compute;
    model->cache = compute == COMPUTE_F32 ? CACHE_F32 : CACHE_BF16;
    model->recompute = RECOMPUTE_CHEAP;
    model->pack_at_once = kernels->packs_every_row ? SIZE_MAX : MODEL_PACK_AT_ONCE;
    atomic_flag_clear(&model->packing.busy);
    const enum status status = declare_all(model, error);
    if (status) {
        arena_free(&model->arena);
        free(model);
        return status;
    }
    config->source = NULL;   /* taken over */
    *out = model;
    return STATUS_OK;
}

void model_destroy(struct model *model) {
    if (!model) return;
    for (int i = 0; i < 2; i++) pages_free(model->pages[i], model->page_bytes[i]);
    expert_cache_destroy(model->expert_cache);
    safetensors_close(model->checkpoint);
    config_release(&model->config);
    arena_free(&model->arena);
    arena_free(&model->config_arena);
    free(model);
}

enum status model_set_cache(struct model *model, enum cache_type cache, struct error *error) {
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct block *block = model->layers[i].attention;
        const struct layer_plan *plan = model->layers[i].plan;
        if (block->cache_bytes(&model->config, plan, cache)) continue;
        char expected[80] = "";
        for (int type = 0; type < CACHE_COUNT; type++) {
            const size_t used = strlen(expected);
            if (block->cache_bytes(&model->config, plan, (enum cache_type)type))
                snprintf(expected + used, sizeof expected - used, "%s%s", used ? " or " : "", precision_names[type]);
        }
        return error_set(error, STATUS_UNSUPPORTED, "layer %lld: attention %s cannot keep its cache in %s, expected %s",
                         (long long)i, block->name, precision_names[cache], expected);
    }
    model->cache = cache;
    return STATUS_OK;
}

enum status model_set_expanded_prefill(struct model *model, bool expanded, struct error *error) {
    bool any = false;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct layer *layer = &model->layers[i];
        if (!layer->attention->set_expanded_prefill) continue;
        layer->attention->set_expanded_prefill(layer, expanded);
        any = true;
    }
    if (expanded && !any)
        return error_set(error, STATUS_UNSUPPORTED,
                         "expanded prefill: no layer of this model has latent attention (MLA)");
    model->expanded_prefill = expanded;
    return STATUS_OK;
}
