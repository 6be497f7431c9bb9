/* Multi-head latent attention (spec/v1-v3.md sections 2.4 to 2.7 and 7.6). */
#include "model/blocks.h"

/* q_a, q_a_norm and q_b where queries have a low rank, q otherwise. */
struct mla { struct parameter *q, *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b, *o; };

static enum status mla_declare(struct model *model, struct layer *layer, struct error *error) {
    const struct config *config = &model->config;
    const int64_t d = config->hidden_size, heads = config->num_attention_heads, query = heads * (config->qk_nope_head_dim + config->qk_rope_head_dim);
    struct mla *mla = layer->attention_weights = arena_alloc(&model->arena, sizeof *mla);
    if (!mla) return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
    *mla = (struct mla){0};
    bool complete = true;
    if (config->q_lora_rank) {
        complete = complete && (mla->q_a = model_declare(model, layer->index, "self_attn.q_a_proj.weight", config->q_lora_rank, d));
        complete = complete && (mla->q_a_norm = model_declare(model, layer->index, "self_attn.q_a_layernorm.weight", config->q_lora_rank, 0));
        complete = complete && (mla->q_b = model_declare(model, layer->index, "self_attn.q_b_proj.weight", query, config->q_lora_rank));
    } else {
        complete = complete && (mla->q = model_declare(model, layer->index, "self_attn.q_proj.weight", query, d));
    }
    complete = complete && (mla->kv_a = model_declare(model, layer->index, "self_attn.kv_a_proj_with_mqa.weight", config->kv_lora_rank + config->qk_rope_head_dim, d));
    complete = complete && (mla->kv_a_norm = model_declare(model, layer->index, "self_attn.kv_a_layernorm.weight", config->kv_lora_rank, 0));
    complete = complete && (mla->kv_b = model_declare(model, layer->index, "self_attn.kv_b_proj.weight", heads * (config->qk_nope_head_dim + config->v_head_dim), config->kv_lora_rank));
    complete = complete && (mla->o = model_declare(model, layer->index, "self_attn.o_proj.weight", d, heads * config->v_head_dim));
    return complete ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
}

static struct tensor *mla_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    (void)layer, (void)x;
    pass->graph->status = STATUS_UNSUPPORTED;
    return NULL;
}

const struct block attention_mla_block = {.name = "mla", .declare = mla_declare, .forward = mla_forward};
