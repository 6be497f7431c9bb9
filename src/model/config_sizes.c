/* Closed forms (spec/v1-v3.md sections 1.5 and 2.7): the sums over the plan of what its blocks say of themselves. */
#include "model/blocks.h"

/* Codes, and an fp32 number for each block of them. */
void sizes_add_matrices(struct config_sizes *sizes, int64_t count, int64_t out, int64_t in) {
    sizes->matrix_parameters += count * out * in;
    sizes->fp8_bytes += count * (out * in + 4 * ((out + 127) / 128) * ((in + 127) / 128));
}

void sizes_add_plain(struct config_sizes *sizes, int64_t out, int64_t in) {
    *(in ? &sizes->matrix_parameters : &sizes->other_parameters) += in ? out * in : out;
    sizes->fp8_bytes += 2 * (in ? out * in : out);
}

static void add_layer(const struct config *config, const struct layer_plan *layer, struct config_sizes *sizes) {
    attention_blocks[layer->attention]->add_sizes(config, layer, sizes);
    ffn_blocks[layer->ffn]->add_sizes(config, layer, sizes);
    for (int half = 0; half < 2; half++) residuals[layer->residual]->add_sizes(config, sizes);
}

static int64_t cache_bytes_per_token(const struct config *config, enum cache_type type) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        const struct block *block = attention_blocks[config->layers[i].attention];
        const int64_t own = block->cache_bytes(config, &config->layers[i], type);
        if (!own) return 0;
        bytes += own;
    }
    return bytes;
}

void config_sizes(const struct config *config, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, embedding = config->vocab_size * d;
    /* the embedding; it is no matrix that a token multiplies */
    *sizes = (struct config_sizes){.fp8_bytes = 2 * embedding};
    sizes_add_plain(sizes, config->vocab_size, d);
    residuals[config->layers[0].residual]->add_sizes(config, sizes);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) add_layer(config, &config->layers[i], sizes);
    for (int type = 0; type < CACHE_COUNT; type++)
        sizes->cache_bytes_per_token[type] = cache_bytes_per_token(config, (enum cache_type)type);
    sizes->active_without_embedding = sizes->matrix_parameters + sizes->other_parameters;
    sizes->active_parameters = sizes->active_without_embedding + embedding;
    sizes->parameters = sizes->active_parameters + sizes->resting_parameters;
    if (config->num_nextn_predict_layers == 0) return;
    /* eh_proj [d, 2 d] in bf16, and two norms before it; the copies of embedding and head are not theirs */
    struct config_sizes mtp = {0};
    for (int64_t i = config->num_hidden_layers; i < config_layers(config); i++) {
        add_layer(config, &config->layers[i], &mtp);
        sizes_add_plain(&mtp, d, 2 * d);
        sizes_add_plain(&mtp, 2 * d, 0);
        residuals[config->layers[i].residual]->add_sizes(config, &mtp);
    }
    sizes->mtp_parameters = mtp.matrix_parameters + mtp.other_parameters + mtp.resting_parameters;
    sizes->mtp_copies = 2 * embedding * config->num_nextn_predict_layers;
    sizes->mtp_matrix_parameters = mtp.matrix_parameters + embedding * config->num_nextn_predict_layers;
    sizes->mtp_attention_flops_per_position = mtp.attention_flops_per_position;
    sizes->mtp_fp8_bytes = mtp.fp8_bytes + 2 * sizes->mtp_copies;
}
