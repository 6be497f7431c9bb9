/* libFuzzer target: a saved sequence (src/model/sequence.c).
 *
 *   byte 0    bit 0: size, checksum and fingerprint are made to fit, so that what lies behind them is reached
 *   others    what is loaded
 *
 * What is accepted can be fed, drafted after, rewound and saved; what is refused leaves the sequence as it was. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "infer/infer.h"
#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

enum { SAVED_HEAD = 16, SAVED_SIZE = 16, SAVED_MODEL = 24, SAVED_LENGTH = 32, SAVED_CAPACITY = 20, SAVED_VOCAB = 30 };

static struct engine *saved_engine(void) {
    static const char text[] =
        "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": \"deepseek_v3\", \"hidden_act\": \"silu\", "
        "\"hidden_size\": 16, \"intermediate_size\": 24, \"moe_intermediate_size\": 8, \"num_hidden_layers\": 2, "
        "\"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"n_routed_experts\": 4, \"n_shared_experts\": 1, "
        "\"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"moe_layer_freq\": 1, \"n_group\": 1, "
        "\"topk_group\": 1, \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, "
        "\"routed_scaling_factor\": 1.5, \"num_nextn_predict_layers\": 2, \"q_lora_rank\": null, "
        "\"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8, "
        "\"vocab_size\": 30, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
        "\"initializer_range\": 0.3, \"tie_word_embeddings\": false, \"attention_bias\": false, "
        "\"torch_dtype\": \"float32\"}";
    static struct engine *engine;
    static struct arena arena;
    struct config config;
    struct model *model;
    struct error error;
    json_t *json;
    if (engine) return engine;
    require(!json_parse(&json, text, sizeof text - 1, "text", &error) &&
            !config_parse(&config, json, "text", &arena, &error) &&
            !model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) &&
            !model_allocate_training(model, &error));
    json_decref(json);
    model_initialise(model, 1);
    require(!engine_create(&engine, model, 0, &error) && !engine_set_draft(engine, DRAFT_ALWAYS, 0, &error));
    return engine;
}

static int32_t choose_first(void *context, int index, struct draft *draft, const float *logits) {
    (void)context, (void)index, (void)draft, (void)logits;
    return 3;
}

static void fed(struct engine *engine, struct sequence *sequence, int32_t id) {
    const struct feed feed = {.sequence = sequence, .ids = &id, .count = 1};
    require(!engine_feed(engine, &feed, 1, 0, NULL));
}

/* Goes on as generation does. */
static void use(struct engine *engine, struct sequence *sequence) {
    struct draft draft = {.sequence = sequence, .next = 5, .wanted = 2};
    if (sequence->length + 3 > sequence->capacity) require(sequence_rewind(sequence, 4) == 4);
    fed(engine, sequence, 7);
    require(!engine_draft(engine, &draft, 1, choose_first, NULL, NULL));
    fed(engine, sequence, 5);
    require(sequence_rewind(sequence, sequence->length - 1) == sequence->length);
    const size_t size = sequence_save_bytes(sequence);
    void *bytes = malloc(size);
    require(bytes && !sequence_save(sequence, bytes, NULL) && !sequence_load(sequence, bytes, size, NULL));
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct engine *engine = saved_engine();
    struct sequence *sequence;
    struct error error = {0};
    if (size < 1) return 0;
    size--;
    require(!sequence_create(&sequence, engine->model, SAVED_CAPACITY, &error));
    uint8_t *bytes = malloc(size + !size);
    require(bytes != NULL);
    memcpy(bytes, data + 1, size);
    if (data[0] & 1 && size >= SAVED_LENGTH) {
        struct sequence *fresh;
        require(!sequence_create(&fresh, engine->model, 0, &error));
        void *header = malloc(sequence_save_bytes(fresh));
        require(header && !sequence_save(fresh, header, &error));
        memcpy(bytes + SAVED_MODEL, (uint8_t *)header + SAVED_MODEL, sizeof(uint64_t));
        const uint64_t whole = size;
        memcpy(bytes + SAVED_SIZE, &whole, sizeof whole);
        const uint64_t sum = XXH3_64bits(bytes + SAVED_HEAD, size - SAVED_HEAD);
        memcpy(bytes + SAVED_HEAD / 2, &sum, sizeof sum);
        free(header);
        sequence_destroy(fresh);
    }
    for (int32_t t = 0; t < 3; t++) fed(engine, sequence, t);
    const enum status status = sequence_load(sequence, bytes, size, &error);
    if (status) {
        require(error.code == status && sequence->length == 3);
        for (int32_t t = 0; t < 3; t++) require(sequence->ids[t] == t);
    } else {
        int64_t length;
        memcpy(&length, bytes + SAVED_LENGTH, sizeof length);
        require(sequence->length == length && length <= SAVED_CAPACITY);
        for (int64_t t = 0; t < length; t++) require(sequence->ids[t] >= 0 && sequence->ids[t] < SAVED_VOCAB);
    }
    use(engine, sequence);
    free(bytes);
    sequence_destroy(sequence);
    return 0;
}
