/* Planning: the code of a pass without data. */
#include "model/model.h"

#include "model/blocks.h"

/* A model that is only described is planned with the packed copies that it will have; one that holds values, with those
 * it has. */
static void pretend_packed(struct model *model, int sides, bool pretend) {
    static uint8_t stand_in;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++) {
            /* never packed; and other engines may be computing with this model */
            if (model->parameters[i]->absent) continue;
            void **packed = &model->parameters[i]->packed[side];
            if (pretend && !*packed && !model->parameters[i]->value && model->parameters[i]->kind == PARAMETER_MATRIX)
                *packed = &stand_in;
            if (!pretend && *packed == &stand_in) *packed = NULL;
        }
}

size_t model_plan_training(struct model *model, int64_t sequences, int64_t length, const struct objective *objective,
                           double *flops) {
    struct objective planned = objective ? *objective : (struct objective){0};
    planned.predicted = 1;
    struct memory memory;
    struct graph graph;
    if (memory_create_plan(&memory, NULL)) return 0;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, true, true);
    const int sides = model->compute != COMPUTE_F32 ? 2 : 0;
    for (int i = 0; i < model->parameter_count; i++) model->parameters[i]->contributions = 0;
    pretend_packed(model, sides, true);
    model_train_forward(&graph, model, NULL, NULL, sequences, length, &planned, NULL);
    graph_backward(&graph);
    pretend_packed(model, sides, false);
    const size_t bytes = memory.peak;
    if (flops) *flops = graph.flops;
    graph_destroy(&graph);
    memory_destroy(&memory);
    return bytes;
}

static size_t plan_inference(struct model *model, int64_t rows, int64_t sequences, int64_t max_position,
                             int64_t logit_rows) {
    struct memory memory;
    struct graph graph;
    if (memory_create_plan(&memory, NULL)) return 0;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, false, true);
    struct span *spans = arena_alloc(&graph.arena, (size_t)sequences * sizeof *spans);
    struct sequence stand_in = {
        .model = model,
        .capacity = max_position,
        .layer_offset = arena_alloc(&graph.arena, (size_t)config_layers(&model->config) * sizeof(size_t))};
    stand_in.state = (uint8_t *)&stand_in;   /* any address: a plan touches no state */
    if (spans && stand_in.layer_offset) {
        for (int64_t i = 0; i < sequences; i++) {
            const int64_t count = rows / sequences + (i < rows % sequences);
            spans[i] = (struct span){.sequence = &stand_in,
                                     .row = i == 0 ? 0 : spans[i - 1].row + spans[i - 1].count,
                                     .count = count,
                                     .position = max_position > count ? max_position - count : 0};
        }
        pretend_packed(model, 1, true);
        const struct batch batch = {NULL, rows, spans, (int)sequences};
        struct tensor *h = model_forward(&graph, model, &batch);
        int32_t some_rows;
        if (h) op_logits(&graph, h, model->head, &some_rows, logit_rows, NULL);
        for (int k = 1; h && k <= (int)model->config.num_nextn_predict_layers; k++) {
            h = model_forward_mtp(&graph, model, k, mtp_rows(&graph, model, NULL, rows), &batch);
            if (h) op_logits(&graph, h, model->head, &some_rows, logit_rows, NULL);
        }
        pretend_packed(model, 1, false);
    }
    const size_t bytes = memory.peak;
    graph_destroy(&graph);
    memory_destroy(&memory);
    return bytes;
}

size_t model_plan_inference(struct model *model, int64_t rows, int64_t sequences, int64_t max_position,
                            int64_t logit_rows) {
    const size_t bytes = plan_inference(model, rows, sequences, max_position, logit_rows);
    if (!model->expanded_prefill || sequences == 1) return bytes;
    /* a span of many rows is computed in another way than many of one row */
    const size_t one = plan_inference(model, rows, 1, max_position, logit_rows);
    return one > bytes ? one : bytes;
}
