/* Which experts a token goes to, with what weights, and what balance losses make of it (spec/v1-v3.md
 * sections 2.3, 2.8, 2.9, 3.1, 3.2, 3.4, 7.8 to 7.10). */
#include "graph/graph.h"

struct route { struct moe_gate gate; bool drops; struct moe_dropping dropping; };

/* out: s [tokens, experts], g [tokens, top_k], the routing */
static void route_forward(struct graph *graph, struct op *op) {
    const struct route *route = op->extra;
    const struct moe_gate *gate = &route->gate;
    const struct moe_kernels *kernels = &graph->kernels->moe;
    const struct tensor *z = op->in[0];
    const size_t gate_bytes = kernels->gate_scratch(gate, pool_threads(graph->pool)),
                 sort_bytes = route->drops ? kernels->sort_scratch(gate, z->rows) : 0;
    void *gate_scratch = scratch_take(graph, gate_bytes),
         *sort_scratch = sort_bytes ? scratch_take(graph, sort_bytes) : NULL;
    if (graph_computes(graph)) {
        struct moe_routing routing = moe_routing_in(op->out[2]->data, gate, z->rows);
        kernels->gate_forward(graph->pool, gate, op->out[0]->data, routing.chosen, op->out[1]->data, z->data, z->rows,
                              gate_scratch);
        kernels->sort(gate, &routing, z->rows, op->out[0]->data, route->drops ? &route->dropping : NULL, sort_scratch);
    }
    scratch_give(graph, sort_scratch, sort_bytes);
    scratch_give(graph, gate_scratch, gate_bytes);
}

static void route_backward(struct graph *graph, struct op *op) {
    const struct route *route = op->extra;
    struct tensor *z = op->in[0];
    float *dz = gradient_sole(graph, z);
    if (!graph_computes(graph)) return;
    const struct moe_routing routing = moe_routing_in(op->out[2]->data, &route->gate, z->rows);
    graph->kernels->moe.gate_backward(graph->pool, &route->gate, dz, op->out[1]->grad, op->out[0]->grad,
                                      op->out[0]->data, routing.chosen, z->rows);
}

static const struct op_kind route_kind = {
    .name = "route", .forward = route_forward, .backward = route_backward, .reads_outputs = 5};

void op_route(struct graph *graph, struct tensor *z, const struct moe_gate *gate, const struct moe_dropping *dropping,
              struct routed *routed) {
    *routed = (struct routed){0};
    struct op *op = op_new(graph, &route_kind, sizeof(struct route));
    if (!op) return;
    struct route *route = op->extra;
    *route = (struct route){.gate = *gate, .drops = dropping != NULL};
    if (dropping) route->dropping = *dropping;
    op_input(op, z);
    routed->scores = op_output(graph, op, z->rows, gate->experts, DTYPE_F32, DTYPE_F32);
    routed->weights = op_output(graph, op, z->rows, gate->top_k, DTYPE_F32, DTYPE_F32);
    routed->routing = op_output(graph, op, 1, moe_routing_words(gate, z->rows), DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
}

/* ---- balance losses and the experts' load ---- */

struct balance { struct moe_gate gate; struct moe_balance losses; struct moe_report report; };

static void balance_forward(struct graph *graph, struct op *op) {
    const struct balance *balance = op->extra;
    const struct moe_report *report = &balance->report;
    const struct moe_kernels *kernels = &graph->kernels->moe;
    struct tensor *scores = op->in[0];
    bool weighs = false;
    for (int part = 0; part < MOE_LOSSES; part++) weighs = weighs || balance->losses.weights[part] != 0;
    if (weighs) {
        float *ds = gradient_sole(graph, scores);
        const size_t scratch_bytes = kernels->balance_scratch(&balance->losses, pool_threads(graph->pool));
        void *scratch = scratch_take(graph, scratch_bytes);
        /* beside the step memory: their number may depend on the ids */
        double(*parts)[MOE_LOSSES] = arena_alloc(&graph->arena, (size_t)report->sequences * sizeof *parts);
        if (!parts) graph->status = STATUS_NO_MEMORY;
        if (graph_computes(graph)) {
            const struct moe_routing routing = moe_routing_in(op->in[1]->data, &balance->gate, scores->rows);
            kernels->balance(graph->pool, &balance->losses, parts, ds, scores->data, routing.chosen, report->first,
                             report->sequences, scratch);
            for (int64_t i = 0; i < report->sequences; i++)
                for (int part = 0; part < MOE_LOSSES; part++)
                    if (balance->losses.weights[part] != 0)
                        report->sums[part] += balance->losses.shares[i] * parts[i][part];
        }
        scratch_give(graph, scratch, scratch_bytes);
    }
    if (!report->counts || !graph_computes(graph)) return;
    const struct moe_routing routing = moe_routing_in(op->in[1]->data, &balance->gate, scores->rows);
    kernels->count_load(&balance->gate, &routing, scores->rows, report->counts, report->dropped);
}

/* No output, hence no backward: the forward has left ds in the scores' gradient. */
static const struct op_kind balance_kind = {.name = "balance", .forward = balance_forward};

void op_balance(struct graph *graph, const struct routed *routed, const struct moe_gate *gate,
                const struct moe_balance *balance, const struct moe_report *report) {
    struct op *op = op_new(graph, &balance_kind, sizeof(struct balance));
    if (!op) return;
    *(struct balance *)op->extra = (struct balance){*gate, *balance, *report};
    op_input(op, routed->scores);
    op_input(op, routed->routing);
    op_run(graph, op);
}
