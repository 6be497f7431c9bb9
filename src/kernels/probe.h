/* What this machine can do at best: measured in the same run as the figures that are quoted as shares of it. */
#ifndef DEEPSEEK_KERNELS_PROBE_H
#define DEEPSEEK_KERNELS_PROBE_H

#include "base/cpu.h"
#include "base/format.h"
#include "base/pool.h"

/* FLOP/s of the instruction that the variant's matrix products use for this compute type (F32 or BF16), on all threads,
 * in registers alone: the best of several short runs. About 50 ms. */
double probe_matmul_peak(struct pool *pool, enum isa isa, enum compute compute);

/* Bytes per second of reading memory in sequence on all threads, each its own part of a buffer larger than the
 * last-level cache: the median of several passes. 0 when there is no memory for the buffer. Below half a second. */
double probe_memory_read(struct pool *pool);

/* For probe.c: so many rounds of the instruction, each `probe_*_flops` FLOPs. */
void probe_rounds_fmaf(int64_t rounds);
void probe_rounds_avx2(int64_t rounds);
void probe_rounds_avx512(int64_t rounds);
void probe_rounds_avx512bf16(int64_t rounds);
void probe_rounds_amx(int64_t rounds);
enum {
    PROBE_FMAF_FLOPS = 16 * 2,
    PROBE_AVX2_FLOPS = 12 * 8 * 2,
    PROBE_AVX512_FLOPS = 24 * 16 * 2,
    PROBE_AVX512BF16_FLOPS = 24 * 32 * 2,
    PROBE_AMX_FLOPS = 4 * 16 * 16 * 32 * 2,
};

#endif
