// The peer of matmul.c: the same shapes through oneDNN's matmul primitive, its weights reordered to the layout it
// prefers beforehand.
//
//   OMP_NUM_THREADS=2 OMP_PROC_BIND=true [ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16] matmul_onednn [large|small] [f32|bf16]
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "matmul_shapes.h"

struct context {
    dnnl::matmul product;
    dnnl::stream stream;
    dnnl::memory a, c;
    std::vector<dnnl::memory> b;
};

static void call(void *p, int i) {
    context *x = (context *)p;
    x->product.execute(x->stream,
                       {{DNNL_ARG_SRC, x->a}, {DNNL_ARG_WEIGHTS, x->b[(size_t)i % x->b.size()]}, {DNNL_ARG_DST, x->c}});
    x->stream.wait();
}

static void measure(dnnl::engine &engine, const char *name, bool bf16, matmul_shape shape) {
    using tag = dnnl::memory::format_tag;
    auto type = bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    dnnl::memory::desc a({shape.m, shape.k}, type, tag::ab), b({shape.k, shape.n}, type, tag::any),
        c({shape.m, shape.n}, dnnl::memory::data_type::f32, tag::ab);
    dnnl::memory::desc weights({shape.k, shape.n}, type, tag::ba);
    dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), engine);
    context x{dnnl::matmul(description), dnnl::stream(engine), dnnl::memory(a, engine), dnnl::memory(c, engine), {}};
    memset(x.a.get_data_handle(), 0x3C, a.get_size());
    memset(x.c.get_data_handle(), 0, c.get_size());
    dnnl::memory source(weights, engine);
    memset(source.get_data_handle(), 0x3C, weights.get_size());
    for (int i = 0; i < matmul_copies(shape, bf16 ? 2 : 4); i++) {
        dnnl::memory packed(description.weights_desc(), engine);
        dnnl::reorder(source, packed).execute(x.stream, source, packed);
        x.stream.wait();
        x.b.push_back(packed);
    }
    struct matmul_times times = matmul_time(call, &x);
    matmul_report(name, bf16 ? "bf16" : "f32", omp_get_max_threads(), shape, bf16 ? 2 : 4, bf16 ? 2 : 4, times, 0.0,
                  0.0);
}

int main(int argc, char **argv) {
    bool large = false, small = false, types[2] = {false, false};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "large")) large = true;
        else if (!strcmp(argv[i], "small")) small = true;
        else if (!strcmp(argv[i], "f32")) types[0] = true;
        else if (!strcmp(argv[i], "bf16")) types[1] = true;
        else return fprintf(stderr, "usage: matmul_onednn [large|small] [f32|bf16]\n"), 2;
    }
    const dnnl_version_t *version = dnnl_version();
    char name[32];
    snprintf(name, sizeof name, "oneDNN-%d.%d.%d", version->major, version->minor, version->patch);
    printf("# %s, instruction set %d, %d threads\n", name, (int)dnnl::get_effective_cpu_isa(), omp_get_max_threads());
    dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    for (int type = 0; type < 2; type++) {
        if (types[0] != types[1] && !types[type]) continue;
        for (int i = 0; i < MATMUL_SHAPES; i++)
            if (matmul_chosen(matmul_shapes[i], large, small)) measure(engine, name, type == 1, matmul_shapes[i]);
    }
    return 0;
}
