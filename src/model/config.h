/* config.json -> struct config -> the layer plan.
 *
 * Both spellings are read: as published, and as transformers 5 saves it (rope_parameters, layer_types, dtype). An
 * unknown key is a warning that names it; a known key whose value asks for something that is not implemented is an
 * error. A generation is data: config.c alone knows model types; the rest of the program sees layers, each of which
 * says in its row of the plan what it is made of.
 *
 *   config.c        reading, and the table of keys
 *   config_write.c  writing
 *   config_sizes.c  closed forms, summed over what the blocks say of themselves */
#ifndef DEEPSEEK_MODEL_CONFIG_H
#define DEEPSEEK_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/format.h"
#include "io/json.h"
#include "kernels/kernels.h"

enum attention_kind { ATTENTION_GQA, ATTENTION_MLA };
enum ffn_kind { FFN_DENSE, FFN_MOE };
enum residual_kind { RESIDUAL_ADD };
/* What a module of multi-token prediction takes beside the embedding of its token. */
enum mtp_source { MTP_OUTPUT /* what the head takes: the output after the last norm */ };

/* One row of the layer plan. MTP modules (section 2.10) are further rows behind the trunk's. */
struct layer_plan {
    enum attention_kind attention;
    int64_t window, compression; /* keys of the last tokens alone; one for so many older ones. 0: all, as they are */
    int rotary;                  /* of config.rotary */
    enum ffn_kind ffn;
    int64_t intermediate_size;   /* of the dense FFN, or of each routed expert */
    struct router_plan {
        struct moe_gate gate;    /* experts 0: no router. Without the values of the bias, which is a parameter */
        bool biased;
    } router;
    enum residual_kind residual;
    enum mtp_source source;      /* of a module */
};

/* YaRN (spec/v1-v3.md section 2.6). Absent: factor 1. */
struct rope_scaling {
    bool yarn;
    double factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    int64_t original_max_position_embeddings;
};

/* A family of rotary embeddings: of all layers whose rows of the plan name it. */
struct rotary { int64_t dims; /* rotated channels of a head */ double theta; struct rope_scaling scaling; };
#define CONFIG_MAX_ROTARY 2

enum topk_method { TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY, TOPK_NOAUX_TC };

/* What is true of all models of a type. */
struct model_family {
    const char *model_type, *architecture;
    enum attention_kind attention;
    bool experts, groups, yarn;
    bool loss_free;              /* V3's gate: sigmoid scores, a bias that takes part in the choice alone */
    bool mtp;                    /* modules of multi-token prediction */
    bool counts_embedding;       /* its paper counts the input embedding among the active parameters */
    bool system_text;            /* was trained with system texts */
    double mscale;               /* of both of YaRN's keys, where a context is extended without them */
};

/* quantization_config of FP8 checkpoints (section 6.3): E4M3 codes with an fp32 multiplier
 * for each block of 128 x 128. */
struct quantization { bool fp8; bool power_of_two; /* scale_fmt ue8m0: of activations, too */ };

#define CONFIG_MAX_NEXTN 4

#define CONFIG_MAX_EOS 8

struct config {
    const struct model_family *family;
    const char *model_type;      /* the generation's */
    int64_t hidden_size, intermediate_size, num_hidden_layers;
    int64_t num_nextn_predict_layers;   /* MTP modules; 0: none. At most CONFIG_MAX_NEXTN */
    /* with MLA as many key/value heads as heads, and head_dim is qk_rope_head_dim */
    int64_t num_attention_heads, num_key_value_heads, head_dim;
    int64_t vocab_size;          /* 0 in a training config that leaves it to the tokenizer */
    int64_t max_position_embeddings;
    double rms_norm_eps, rope_theta, initializer_range;
    struct rope_scaling rope_scaling;
    struct rotary rotary[CONFIG_MAX_ROTARY];   /* from the two */

    /* multi-head latent attention; kv_lora_rank 0: none */
    int64_t q_lora_rank;         /* 0: queries come from one matrix */
    int64_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;

    /* mixture of experts; n_routed_experts 0: none */
    int64_t n_routed_experts, n_shared_experts, num_experts_per_tok, moe_intermediate_size, first_k_dense_replace,
        moe_layer_freq;
    /* groups of consecutive experts (devices, in balance losses and dropping), and how many of them
     * TOPK_GROUP_LIMITED_GREEDY and TOPK_NOAUX_TC let a token use; 1 and 1 where nothing is said */
    int64_t n_group, topk_group;
    enum topk_method topk_method;
    enum scoring_func scoring_func;
    bool norm_topk_prob;
    double routed_scaling_factor;

    int64_t bos_token_id, eos_token_id[CONFIG_MAX_EOS];   /* -1: none */
    int eos_count;
    enum dtype dtype;            /* torch_dtype / dtype */

    struct quantization quantization;

    struct layer_plan *layers;   /* [num_hidden_layers + num_nextn_predict_layers] */
    const char *const *warnings; /* unknown keys and the like */
    int warning_count;
    /* the JSON it was read from, without `train`: config.json is written from it. Owned. */
    json_t *source;
};

/* `origin` names the source in messages. Keys "train" are ignored here (train/settings.h reads them). Strings live in
 * `arena`. */
enum status config_parse(struct config *config, const json_t *root, const char *origin, struct arena *arena,
                         struct error *error);
/* NULL: there is no such type. */
const struct model_family *config_family(const char *model_type);
/* The first key by which the weights of `a` and `b` differ in shape; NULL: they have the same. */
const char *config_shape_difference(const struct config *a, const struct config *b, int64_t *of_a, int64_t *of_b);
/* The JSON of a folder's config.json, or of the path of one. */
enum status config_read(json_t **root, const char *path, struct error *error);
/* The same, parsed. */
enum status config_load(struct config *config, const char *path, struct arena *arena, struct error *error);
void config_release(struct config *config);   /* the JSON; the rest is the arena's */

/* config.json as transformers reads it, deterministic. dtype: of the tensors beside it; F8_E4M3: of an FP8 checkpoint,
 * with its quantization_config (the others have none). Returns a new reference. */
json_t *config_to_json(const struct config *config, enum dtype dtype);
/* Values in it, new references: eos_token_id (null, an id or several), and the quantization_config of V3's FP8. */
json_t *config_eos_json(const struct config *config);
json_t *config_fp8_json(void);

/* Rows of the layer plan, those of MTP modules included. */
static inline int64_t config_layers(const struct config *config) {
    return config->num_hidden_layers + config->num_nextn_predict_layers;
}

/* The router of the first layer that has one, NULL: none has. */
static inline const struct router_plan *config_router(const struct config *config) {
    for (int64_t i = 0; i < config_layers(config); i++)
        if (config->layers[i].router.gate.experts) return &config->layers[i].router;
    return NULL;
}

/* Closed forms from the layer plan alone, no memory needed: the sums of what the blocks say of themselves. */
struct config_sizes {
    int64_t parameters;                      /* all */
    int64_t active_parameters;               /* those a token meets, embedding and head included */
    /* the same without the input embedding, which is looked up: what the papers of V2 and V3 quote */
    int64_t active_without_embedding;
    /* active parameters that a token multiplies: 2 FLOPs each forward, 6 in training */
    int64_t matrix_parameters;
    int64_t other_parameters;                /* of norms, and the gates' biases */
    int64_t resting_parameters;              /* of the experts that a token does not meet */
    int64_t mtp_parameters;                  /* of the MTP modules' own, which the others do not count */
    int64_t mtp_copies;                      /* of embedding and head, that checkpoints hold for each module */
    int64_t mtp_matrix_parameters;           /* what a token multiplies in all modules, the head once for each */
    double mtp_attention_flops_per_position; /* of training */
    /* of an FP8 checkpoint: codes and scales; embedding, head, gates, norms and eh_proj in bf16, the gates' biases in
     * fp32; of the modules with their copies */
    int64_t fp8_bytes, mtp_fp8_bytes;
    int64_t cache_elements_per_token;        /* all layers */
    int64_t cache_bytes_per_token[CACHE_COUNT];   /* 0 where a layer cannot have it */
    /* FLOPs of one query against one key, all layers, forward. Training computes MLA expanded, 2 heads (qk_dim +
     * v_dim); inference absorbed, 2 heads (2 kv_lora_rank + rope). */
    double attention_flops_per_position, inference_attention_flops_per_position;
    double expansion_flops_per_position;     /* of the expanded form at inference, for each token of the cache */
};
void config_sizes(const struct config *config, struct config_sizes *sizes);

/* The compute type of products with a checkpoint of this config, unless another is asked for. */
static inline enum compute config_compute(const struct config *config) {
    return config->quantization.fp8 ? COMPUTE_FP8 : config->dtype == DTYPE_BF16 ? COMPUTE_BF16 : COMPUTE_F32;
}

#endif
