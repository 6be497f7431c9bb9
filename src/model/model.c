/* The model as a description: parameters declared block by block. */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/blocks.h"
#include "model/expert_cache.h"

static const struct block *const attention_blocks[] = {
    [ATTENTION_GQA] = &attention_gqa_block, [ATTENTION_MLA] = &attention_mla_block};
static const struct block *const ffn_blocks[] = {[FFN_DENSE] = &ffn_dense_block, [FFN_MOE] = &ffn_moe_block};
static const struct residual *const residuals[] = {[RESIDUAL_ADD] = &residual_add};

/* of activations: the released code divides by no smaller one (spec/v1-v3.md section 4.2) */
#define FP8_LEAST_AMAX 1e-4f

/* ---- declaration ------------------------------------------------------------------------------------------------- */

struct parameter *model_declare(struct model *model, int layer, const char *name, int64_t rows, int64_t columns) {
    /* doubled; the arena keeps the old lists, which together are no larger */
    if ((model->parameter_count & (model->parameter_count - 1)) == 0) {
        struct parameter **list = arena_alloc(
            &model->arena, (size_t)(model->parameter_count ? 2 * model->parameter_count : 1) * sizeof *list);
        if (!list) return NULL;
        if (model->parameter_count) memcpy(list, model->parameters, (size_t)model->parameter_count * sizeof *list);
        model->parameters = list;
    }
    struct parameter *parameter = arena_alloc(&model->arena, sizeof *parameter);
    if (!parameter) return NULL;
    *parameter = (struct parameter){
        .name = layer < 0 ? arena_string(&model->arena, name)
                          : arena_printf(&model->arena, "model.layers.%d.%s", layer, name),
        .rank = columns ? 2 : 1,
        .shape = {rows, columns},
        .count = columns ? rows * columns : rows,
        .trainable = true,
        .compute = model->compute,
        .least_amax = FP8_LEAST_AMAX,
    };
    if (!parameter->name) return NULL;
    return model->parameters[model->parameter_count++] = parameter;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(struct parameter *const *)a)->name, (*(struct parameter *const *)b)->name);
}

static int name_against(const void *name, const void *parameter) {
    return strcmp(name, (*(struct parameter *const *)parameter)->name);
}

struct parameter *model_parameter(const struct model *model, const char *name) {
    struct parameter **found = bsearch(name, model->sorted, (size_t)model->parameter_count, sizeof *model->sorted,
                                       name_against);
    return found ? *found : NULL;
}

static enum status no_memory(struct error *error) {
    return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
}

static enum status declare_layer(struct model *model, int index, struct error *error) {
    struct layer *layer = &model->layers[index];
    const int64_t d = model->config.hidden_size;
    layer->index = index;
    layer->plan = &model->config.layers[index];
    layer->attention = attention_blocks[layer->plan->attention];
    layer->ffn = ffn_blocks[layer->plan->ffn];
    layer->residual = residuals[layer->plan->residual];
    enum status status = (layer->input_norm = model_declare(model, index, "input_layernorm.weight", d, 0))
                             ? layer->attention->declare(model, layer, error)
                             : no_memory(error);
    if (status) return status;
    return (layer->post_attention_norm = model_declare(model, index, "post_attention_layernorm.weight", d, 0))
               ? layer->ffn->declare(model, layer, error)
               : no_memory(error);
}

static enum status declare_modules(struct model *model, struct error *error) {
    const int64_t depths = model->config.num_nextn_predict_layers;
    enum status status = STATUS_OK;
    if (!depths) return STATUS_OK;
    model->mtp = arena_alloc(&model->arena, (size_t)depths * sizeof *model->mtp);
    if (!model->mtp) return no_memory(error);
    for (int64_t k = 0; k < depths && !status; k++) {
        const int index = (int)(model->config.num_hidden_layers + k);
        model->mtp[k] = (struct mtp_module){.layer = &model->layers[index]};
        status = mtp_declare_input(model, &model->mtp[k], index) ? declare_layer(model, index, error)
                                                                 : no_memory(error);
        if (!status && !mtp_declare_output(model, &model->mtp[k], index)) status = no_memory(error);
    }
    return status;
}

/* What an FP8 checkpoint was made for is how its own code rounds the activations: powers
 * of two everywhere, or nowhere. */
static void follow_checkpoint(struct model *model) {
    for (int i = 0; i < model->parameter_count && model->config.quantization.fp8; i++)
        model->parameters[i]->x_power_of_two = model->config.quantization.power_of_two;
}

static enum status declare_all(struct model *model, struct error *error) {
    const struct config *config = &model->config;
    enum status status = STATUS_OK;
    model->layers = arena_alloc(&model->arena, (size_t)config_layers(config) * sizeof *model->layers);
    if (!model->layers || !(model->embedding = model_declare(model, -1, "model.embed_tokens.weight", config->vocab_size,
                                                             config->hidden_size)))
        return no_memory(error);
    for (int i = 0; i < (int)config->num_hidden_layers && !status; i++) status = declare_layer(model, i, error);
    if (status) return status;
    if (!(model->final_norm = model_declare(model, -1, "model.norm.weight", config->hidden_size, 0)))
        return no_memory(error);
    if (!(model->head = model_declare(model, -1, "lm_head.weight", config->vocab_size, config->hidden_size)))
        return no_memory(error);
    model->head->compute = compute_activation(model->compute);
    if ((status = declare_modules(model, error))) return status;
    follow_checkpoint(model);
    if (!(model->sorted = arena_alloc(&model->arena, (size_t)model->parameter_count * sizeof *model->sorted)))
        return no_memory(error);
    memcpy(model->sorted, model->parameters, (size_t)model->parameter_count * sizeof *model->sorted);
    qsort(model->sorted, (size_t)model->parameter_count, sizeof *model->sorted, by_name);
    return STATUS_OK;
}

enum status model_create(struct model **out, struct config *config, const struct kernels *kernels, struct pool *pool,
                         enum dtype compute, struct error *error) {
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
    model->cache = compute_activation(compute);
    model->recompute = RECOMPUTE_CHEAP;
    /* plain C would pack anew for every row */
    model->pack_at_once = kernels->isa == ISA_REFERENCE ? SIZE_MAX : MODEL_PACK_AT_ONCE;
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

static bool block_holds(const struct block *block, enum dtype cache) {
    return block->holds ? block->holds(cache) : cache == DTYPE_F32 || cache == DTYPE_BF16;
}

enum status model_set_cache(struct model *model, enum dtype cache, struct error *error) {
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct block *block = model->layers[i].attention;
        if (!block->state_bytes || block_holds(block, cache)) continue;
        char expected[80] = "";
        for (int type = 0; type < DTYPE_COUNT; type++) {
            const size_t used = strlen(expected);
            if (block_holds(block, (enum dtype)type))
                snprintf(expected + used, sizeof expected - used, "%s%s", used ? " or " : "",
                         dtype_name((enum dtype)type));
        }
        return error_set(error, STATUS_UNSUPPORTED, "layer %lld: attention %s cannot keep its cache in %s, expected %s",
                         (long long)i, block->name, dtype_name(cache), expected);
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
