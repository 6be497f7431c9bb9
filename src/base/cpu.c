/* CPUID, the state that the system saves (XCR0), permission for AMX's tiles, and the choice of a variant. */
#include "base/cpu.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

static const char *const names[ISA_COUNT] = {"reference", "avx2", "avx512", "avx512bf16", "amx"};
static bool available[ISA_COUNT];
static char model[64] = "unknown processor";
static pthread_once_t detection = PTHREAD_ONCE_INIT;

#ifdef __x86_64__

/* Which registers the system saves when it switches tasks. */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux gives the 8 KiB of tile data only to processes that ask; the answer holds for every thread. */
static bool tiles_granted(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static void detect_variants(void) {
    enum { OSXSAVE = 1u << 27, AVX = 1u << 28, FMA = 1u << 12, F16C = 1u << 29 };                    /* leaf 1, ecx */
    enum { AVX2 = 1u << 5, F = 1u << 16, DQ = 1u << 17, BW = 1u << 30 };                             /* leaf 7, ebx */
    const uint32_t VL = 1u << 31;
    enum { VBMI = 1u << 1 };                                                                         /* leaf 7, ecx */
    enum { AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24 };                                               /* leaf 7, edx */
    enum { AVX512_BF16 = 1u << 5 };                                                                  /* leaf 7.1, eax */
    const uint64_t state_avx = 0x6, state_avx512 = 0xE6, state_amx = 0x60000;

    uint32_t eax, ebx, ecx, edx, first_ecx;
    if (!__get_cpuid(1, &eax, &ebx, &first_ecx, &edx) || !(first_ecx & OSXSAVE)) return;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    uint32_t sub_eax = 0, sub_ebx, sub_ecx, sub_edx;
    if (eax >= 1) __get_cpuid_count(7, 1, &sub_eax, &sub_ebx, &sub_ecx, &sub_edx);
    uint64_t state = saved_state();

    const uint32_t avx2 = AVX | FMA | F16C, avx512 = F | DQ | BW | VL, amx = AMX_BF16 | AMX_TILE;
    available[ISA_AVX2] = (first_ecx & avx2) == avx2 && (ebx & AVX2) && (state & state_avx) == state_avx;
    available[ISA_AVX512] = available[ISA_AVX2] && (ebx & avx512) == avx512 && (ecx & VBMI) &&
                            (state & state_avx512) == state_avx512;
    available[ISA_AVX512_BF16] = available[ISA_AVX512] && (sub_eax & AVX512_BF16);
    available[ISA_AMX] = available[ISA_AVX512_BF16] && (edx & amx) == amx && (state & state_amx) == state_amx &&
                         tiles_granted();
}

/* The brand string: three leaves of sixteen bytes, padded with blanks. */
static void detect_model(void) {
    uint32_t text[12];
    for (uint32_t i = 0; i < 3; i++) {
        if (!__get_cpuid(0x80000002u + i, &text[4 * i], &text[4 * i + 1], &text[4 * i + 2], &text[4 * i + 3])) return;
    }
    char brand[sizeof text + 1] = {0};
    memcpy(brand, text, sizeof text);
    size_t used = 0;
    char clean[sizeof brand];
    for (const char *c = brand; *c; c++) {   /* runs of blanks become one, and none stands at either end */
        if (*c != ' ') clean[used++] = *c;
        else if (used && clean[used - 1] != ' ') clean[used++] = ' ';
    }
    while (used && clean[used - 1] == ' ') used--;
    clean[used] = 0;
    if (used) memcpy(model, clean, used + 1);
}

#else

static void detect_variants(void) {}
static void detect_model(void) {}

#endif

static void detect(void) {
    available[ISA_REFERENCE] = true;
    detect_variants();
    detect_model();
}

const char *isa_name(enum isa isa) { return names[isa]; }

bool isa_available(enum isa isa) {
    pthread_once(&detection, detect);
    return available[isa];
}

const char *cpu_model_name(void) {
    pthread_once(&detection, detect);
    return model;
}

enum status isa_select(enum isa *isa, struct error *error) {
    const char *wanted = getenv("DEEPSEEK_ISA");
    if (!wanted || !*wanted) {
        for (int i = 0; i < ISA_COUNT; i++) {
            if (isa_available((enum isa)i)) *isa = (enum isa)i;
        }
        return STATUS_OK;
    }
    char list[128] = "";   /* what could have been asked for */
    int found = -1;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(wanted, names[i]) == 0) found = i;
        if (isa_available((enum isa)i)) {
            size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", names[i]);
        }
    }
    if (found < 0)
        return error_set(error, STATUS_INVALID, "DEEPSEEK_ISA: unknown variant \"%s\"; available here: %s", wanted,
                         list);
    if (found == ISA_AVX512 && isa_available(ISA_AVX512_BF16)) found = ISA_AVX512_BF16;
    if (!isa_available((enum isa)found)) {
        return error_set(error, STATUS_UNSUPPORTED,
                         "DEEPSEEK_ISA: this processor or system has no \"%s\"; available here: %s", wanted, list);
    }
    *isa = (enum isa)found;
    return STATUS_OK;
}
