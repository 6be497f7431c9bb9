/* Multi-head latent attention (spec/v1-v3.md sections 2.4 to 2.7 and 7.6; arXiv 2405.04434).
 *
 *   q = W_q x, or W_qb RMSNorm(W_qa x);   [c_raw | k_r_raw] = W_kva x;   c = RMSNorm(c_raw);   rope on the last
 *       channels of every head's q and on k_r, which all heads share
 *   expanded:  [k_n,h | v_h] = W_kvb,h c;   o_h = softmax(scale (q_n,h . k_n,h + q_r,h . k_r), causal) v_h;   y = W_o o
 *   absorbed:  [UK_h ; UV_h] = W_kvb,h;   the same with q_n,h . UK_h c = (UK_h^T q_n,h) . c and o_h = UV_h (sum of c)
 *
 * Training is expanded. At inference every token is absorbed, in prefill as in decoding; on request spans of several
 * tokens are expanded. State of a sequence: the store of c and k_r that the attention kernel defines. */
#include <math.h>
#include <stdio.h>

#include "model/blocks.h"
#include "model/rope.h"

/* Whatever rms_norm_eps says: so are the released models. */
#define LATENT_EPS 1e-6f

/* q_a, q_a_norm and q_b where queries have a low rank, q otherwise. */
struct mla { struct parameter *q, *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b, *o; int heads; };

/* kv_b's slices as op_latent_attention wants them: UK_h and UV_h of all heads, and UK_h^T for expanded prefill. */
static void declare_views(struct model *model, struct parameter *kv_b) {
    const struct config *config = &model->config;
    const int64_t heads = config->num_attention_heads, nope = config->qk_nope_head_dim, value = config->v_head_dim;
    struct parameter_view *views = model_describe(model, 3 * (size_t)heads * sizeof *views);
    if (!kv_b || !views) return;
    for (int64_t h = 0; h < heads; h++) {
        const int64_t row = h * (nope + value);
        views[h] = (struct parameter_view){.row = row, .rows = nope};
        views[heads + h] = (struct parameter_view){.row = row + nope, .rows = value, .transposed = true};
        views[2 * heads + h] = (struct parameter_view){.row = row, .rows = nope, .transposed = true};
    }
    model_place_views(model, kv_b, views, 3 * (int)heads);
    kv_b->views = views;
    kv_b->view_count = 2 * (int)heads;
}

static void mla_set_expanded_prefill(const struct layer *layer, bool expanded) {
    const struct mla *mla = layer->attention_weights;
    mla->kv_b->view_count = (expanded ? 3 : 2) * mla->heads;
}

static void mla_declare(struct model *model, struct layer *layer) {
    const struct config *config = &model->config;
    const enum parameter_owner owner = OWNER_ATTENTION;
    const int64_t d = config->hidden_size, heads = config->num_attention_heads, rank = config->kv_lora_rank,
                  query = heads * (config->qk_nope_head_dim + config->qk_rope_head_dim);
    struct mla *mla = layer->attention_weights = model_describe(model, sizeof *mla);
    if (!mla) return;
    *mla = (struct mla){.heads = (int)heads};
    if (config->q_lora_rank) {
        mla->q_a = model_declare_matrix(model, layer, owner, "self_attn.q_a_proj.weight", config->q_lora_rank, d);
        mla->q_a_norm = model_declare_norm(model, layer, owner, "self_attn.q_a_layernorm.weight", config->q_lora_rank);
        mla->q_b = model_declare_matrix(model, layer, owner, "self_attn.q_b_proj.weight", query, config->q_lora_rank);
    } else {
        mla->q = model_declare_matrix(model, layer, owner, "self_attn.q_proj.weight", query, d);
    }
    mla->kv_a = model_declare_matrix(model, layer, owner, "self_attn.kv_a_proj_with_mqa.weight",
                                     rank + config->qk_rope_head_dim, d);
    mla->kv_a_norm = model_declare_norm(model, layer, owner, "self_attn.kv_a_layernorm.weight", rank);
    mla->kv_b = model_declare_matrix(model, layer, owner, "self_attn.kv_b_proj.weight",
                                     heads * (config->qk_nope_head_dim + config->v_head_dim), rank);
    declare_views(model, mla->kv_b);
    /* in FP8: what is kept of it is read in tiles of both directions (section 4.1) */
    mla->o = model_declare(model, layer,
                           &(struct parameter){.owner = owner,
                                               .name = "self_attn.o_proj.weight",
                                               .shape = {d, heads * config->v_head_dim},
                                               .x_power_of_two = true});
    model_declare_name(model, layer, NULL, &(struct parameter_name){.name = "self_attn.rotary_emb.inv_freq"});
}

static float softmax_scale(const struct config *config) {
    const double query = (double)(config->qk_nope_head_dim + config->qk_rope_head_dim);
    return (float)(rope_softmax_factor(&config->rope_scaling) / sqrt(query));
}

static struct latent_shape mla_shape(const struct model *model) {
    const struct config *config = &model->config;
    return (struct latent_shape){
        .heads = (int)config->num_attention_heads,
        .nope = config->qk_nope_head_dim,
        .rotary = config->qk_rope_head_dim,
        .value = config->v_head_dim,
        .rank = config->kv_lora_rank,
        .scale = softmax_scale(config),
        .cache = cache_dtype(model->cache),
    };
}

static void mla_sizes(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, heads = config->num_attention_heads, nope = config->qk_nope_head_dim,
                  rope = config->qk_rope_head_dim, value = config->v_head_dim, latent = config->kv_lora_rank,
                  rank = config->q_lora_rank, query = heads * (nope + rope);
    (void)plan;
    if (rank) sizes_add_matrices(sizes, 1, rank, d);
    sizes_add_matrices(sizes, 1, query, rank ? rank : d);
    sizes_add_matrices(sizes, 1, latent + rope, d);
    sizes_add_matrices(sizes, 1, heads * (nope + value), latent);
    sizes_add_matrices(sizes, 1, d, heads * value);
    sizes_add_plain(sizes, rank + latent, 0);   /* the norms of both latents */
    sizes->cache_elements_per_token += latent + rope;
    sizes->attention_flops_per_position += 2.0 * (double)(query + heads * value);
    sizes->inference_attention_flops_per_position += 2.0 * (double)heads * (double)(2 * latent + rope);
    sizes->expansion_flops_per_position += 2.0 * (double)latent * (double)heads * (double)(nope + value);
}

/* E4M3: codes of the latent with an fp32 scale for 128 of them, the rotary part in bf16 */
static int64_t mla_cache_bytes(const struct config *config, const struct layer_plan *plan, enum cache_type cache) {
    const int64_t latent = config->kv_lora_rank, rope = config->qk_rope_head_dim;
    (void)plan;
    if (cache == CACHE_FP8) return latent + 4 * ((latent + 127) / 128) + 2 * rope;
    return (int64_t)dtype_bytes(cache_dtype(cache), (size_t)(latent + rope));
}

static void mla_describe(const struct config *config, const struct layer_plan *plan, char *text, size_t size) {
    (void)plan;
    const int used = snprintf(text, size, "%lld heads of %lld + %lld and %lld, latent %lld",
                              (long long)config->num_attention_heads, (long long)config->qk_nope_head_dim,
                              (long long)config->qk_rope_head_dim, (long long)config->v_head_dim,
                              (long long)config->kv_lora_rank);
    if (config->q_lora_rank)
        snprintf(text + used, size - (size_t)used, ", of queries %lld", (long long)config->q_lora_rank);
}

static enum attention_core mla_store(const struct model *model, struct attention_shape *shape) {
    const struct latent_shape latent = mla_shape(model);
    *shape = latent_attention_shape(&latent);
    return CORE_LATENT;
}

/* c -> k, v of every head -> attention, all of it on the tape */
static struct tensor *attend_expanded(struct forward *pass, const struct layer *layer, struct tensor *q,
                                      struct tensor *c, struct tensor *k_r) {
    struct graph *graph = pass->graph;
    const struct config *config = &pass->model->config;
    const struct mla *mla = layer->attention_weights;
    const struct attention_shape shape = {
        .heads = (int)config->num_attention_heads, .kv_heads = (int)config->num_attention_heads,
        .qk_dim = (int)(config->qk_nope_head_dim + config->qk_rope_head_dim), .v_dim = (int)config->v_head_dim,
        .scale = softmax_scale(config), .kv_dtype = compute_activation(pass->model->compute),
    };
    struct tensor *kvu, *k, *v;
    op_linear(graph, c, (struct parameter *[]){mla->kv_b}, 1, &kvu);
    op_latent_keys(graph, kvu, k_r, shape.heads, config->qk_nope_head_dim, &k, &v);
    const struct attention_job *jobs = model_attention_jobs(pass, layer);
    if (graph->status != STATUS_OK) return NULL;
    c->recompute = k_r->recompute = k->recompute = v->recompute = pass->model->recompute >= RECOMPUTE_CHEAP;
    return op_attention(graph, q, k, v, &shape, jobs, pass->batch->span_count);
}

static struct tensor *mla_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    struct graph *graph = pass->graph;
    const struct config *config = &pass->model->config;
    const struct mla *mla = layer->attention_weights;
    struct tensor *first[2], *q, *c, *k_r, *y;   /* first: q or its low-rank form, and [c_raw | k_r_raw] */
    op_linear(graph, x, (struct parameter *[]){config->q_lora_rank ? mla->q_a : mla->q, mla->kv_a}, 2, first);
    q = first[0];
    if (config->q_lora_rank) {
        struct tensor *normed = op_rmsnorm(graph, first[0], mla->q_a_norm, LATENT_EPS);
        if (normed) normed->recompute = pass->model->recompute >= RECOMPUTE_CHEAP;
        op_linear(graph, normed, (struct parameter *[]){mla->q_b}, 1, &q);
    }
    const struct rope rope = {
        .table = pass->rope[layer->plan->rotary],
        .heads = (int)config->num_attention_heads,
        .head_dim = (int)(config->qk_nope_head_dim + config->qk_rope_head_dim),
        .offset = (int)config->qk_nope_head_dim,
        .dims = (int)config->qk_rope_head_dim,
        .interleaved = true,
        .positions = pass->row_numbers,
    };
    q = op_rope(graph, q, &rope);
    op_latent(graph, first[1], mla->kv_a_norm, LATENT_EPS, rope.table, rope.positions, &c, &k_r);

    struct tensor *o;
    const bool has_state = pass->batch->spans[0].sequence != NULL;
    if (!has_state && (graph->recording || mla->kv_b->value)) {
        o = attend_expanded(pass, layer, q, c, k_r);
    } else {
        struct latent_shape shape = mla_shape(pass->model);
        shape.expanded_prefill = pass->model->expanded_prefill && has_state;
        const struct attention_job *jobs = model_attention_jobs(pass, layer);
        o = op_latent_attention(graph, q, c, k_r, mla->kv_b, &shape, jobs, pass->batch->span_count);
    }
    if (o) o->compression = model_compression(pass->model, COMPRESS_E5M6);
    op_linear(graph, o, (struct parameter *[]){mla->o}, 1, &y);
    return y;
}

const struct block attention_mla_block = {
    .name = "mla",
    .declare = mla_declare,
    .forward = mla_forward,
    .store = mla_store,
    .state_bytes = attention_store_bytes,
    .save_bytes = attention_store_save_bytes,
    .save = attention_store_save,
    .load = attention_store_load,
    .add_sizes = mla_sizes,
    .cache_bytes = mla_cache_bytes,
    .describe = mla_describe,
    .set_expanded_prefill = mla_set_expanded_prefill,
};
