/* V1's attention: multi-head or grouped-query with half-split rotary embedding (spec/v1-v3.md section 2.2).
 *
 *   q = Wq x   k = Wk x   v = Wv x;   rope on q and k;   o = softmax(q k^T / sqrt(head_dim), causal) v;   y = Wo o
 *
 * State of a sequence: the store of rotated keys and of values that the attention kernel defines. */
#include <math.h>
#include <stdio.h>

#include "model/blocks.h"

struct gqa { struct parameter *q, *k, *v, *o; };

static void gqa_declare(struct model *model, struct layer *layer) {
    const struct config *config = &model->config;
    const int64_t d = config->hidden_size, query = config->num_attention_heads * config->head_dim,
                  kv = config->num_key_value_heads * config->head_dim;
    struct gqa *gqa = layer->attention_weights = model_describe(model, sizeof *gqa);
    if (!gqa) return;
    gqa->q = model_declare_matrix(model, layer, OWNER_ATTENTION, "self_attn.q_proj.weight", query, d);
    gqa->k = model_declare_matrix(model, layer, OWNER_ATTENTION, "self_attn.k_proj.weight", kv, d);
    gqa->v = model_declare_matrix(model, layer, OWNER_ATTENTION, "self_attn.v_proj.weight", kv, d);
    gqa->o = model_declare(model, layer,
                           &(struct parameter){.owner = OWNER_ATTENTION,
                                               .name = "self_attn.o_proj.weight",
                                               .shape = {d, query},
                                               .x_power_of_two = true});   /* in FP8, as MLA's */
    model_declare_name(model, layer, NULL, &(struct parameter_name){.name = "self_attn.rotary_emb.inv_freq"});
}

static struct attention_shape gqa_shape(const struct model *model) {
    const struct config *config = &model->config;
    return (struct attention_shape){
        .heads = (int)config->num_attention_heads, .kv_heads = (int)config->num_key_value_heads,
        .qk_dim = (int)config->head_dim, .v_dim = (int)config->head_dim,
        .scale = (float)(1.0 / sqrt((double)config->head_dim)), .kv_dtype = cache_dtype(model->cache),
    };
}

static void gqa_sizes(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, query = config->num_attention_heads * config->head_dim,
                  kv = config->num_key_value_heads * config->head_dim;
    (void)plan;
    sizes_add_matrices(sizes, 2, query, d);
    sizes_add_matrices(sizes, 2, kv, d);
    sizes->cache_elements_per_token += 2 * kv;
    sizes->attention_flops_per_position += 4.0 * (double)query;
    sizes->inference_attention_flops_per_position += 4.0 * (double)query;
}

static int64_t gqa_cache_bytes(const struct config *config, const struct layer_plan *plan, enum cache_type cache) {
    (void)plan;
    return cache == CACHE_FP8 ? 0
                              : (int64_t)dtype_bytes(cache_dtype(cache),
                                                     (size_t)(2 * config->num_key_value_heads * config->head_dim));
}

static void gqa_describe(const struct config *config, const struct layer_plan *plan, char *text, size_t size) {
    (void)plan;
    snprintf(text, size, "%lld heads on %lld key/value heads of %lld", (long long)config->num_attention_heads,
             (long long)config->num_key_value_heads, (long long)config->head_dim);
}

static enum attention_core gqa_store(const struct model *model, struct attention_shape *shape) {
    *shape = gqa_shape(model);
    return CORE_GROUPED;
}

static struct tensor *gqa_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    struct graph *graph = pass->graph;
    const struct config *config = &pass->model->config;
    const struct gqa *gqa = layer->attention_weights;
    struct tensor *qkv[3];
    op_linear(graph, x, (struct parameter *[]){gqa->q, gqa->k, gqa->v}, 3, qkv);

    struct rope rope = {.table = pass->rope[layer->plan->rotary],
                        .heads = (int)config->num_attention_heads,
                        .head_dim = (int)config->head_dim,
                        .dims = (int)config->head_dim,
                        .positions = pass->row_numbers};
    struct tensor *q = op_rope(graph, qkv[0], &rope);
    rope.heads = (int)config->num_key_value_heads;
    struct tensor *k = op_rope(graph, qkv[1], &rope);

    const struct attention_shape shape = gqa_shape(pass->model);
    const struct attention_job *jobs = model_attention_jobs(pass, layer);
    if (!jobs) return NULL;
    struct tensor *o = op_attention(graph, q, k, qkv[2], &shape, jobs, pass->batch->span_count), *y;
    if (o) o->compression = model_compression(pass->model, COMPRESS_E5M6);
    op_linear(graph, o, (struct parameter *[]){gqa->o}, 1, &y);
    return y;
}

const struct block attention_gqa_block = {
    .name = "gqa",
    .declare = gqa_declare,
    .forward = gqa_forward,
    .store = gqa_store,
    .state_bytes = attention_store_bytes,
    .save_bytes = attention_store_save_bytes,
    .save = attention_store_save,
    .load = attention_store_load,
    .add_sizes = gqa_sizes,
    .cache_bytes = gqa_cache_bytes,
    .describe = gqa_describe,
};
