/* What the files of the public API (include/deepseek.h) share: the objects behind the handles, and the way back from
 * the inner errors.
 *
 * Every public function has the form
 *
 *     struct error e = { 0 };
 *     enum status status = ...;                 arguments checked first, then the inner functions
 *     return api_result(status, &e, error);     the one place that fills the caller's record */
#ifndef DEEPSEEK_API_API_H
#define DEEPSEEK_API_API_H

#include "deepseek.h"
#include "infer/generate.h"
#include "train/settings.h"
#include "train/trainer.h"

struct api_machine { const struct kernels *kernels; struct pool *pool; };
enum status api_machine_open(struct api_machine *machine, int threads, struct error *error);

struct ds_tokenizer { struct tokenizer *tokenizer; };

struct ds_model {
    struct api_machine machine;
    struct model *model;
    struct engine *engine;
    struct sampler *sampler;
    struct ds_tokenizer tokenizer;    /* .tokenizer NULL: the folder has none */
    struct generation_defaults defaults;
    struct feed *feeds;               /* [feed_capacity], used again by every ds_feed */
    int feed_capacity;
};

struct ds_sequence { ds_model *model; struct sequence *sequence; };

struct ds_trainer {
    struct api_machine machine;
    struct model *model;
    struct trainer *trainer;
    struct settings settings;
    struct schedule schedule;
    const struct tokenizer *tokenizer;   /* the caller's, or NULL */
};

/* Fills the caller's record (which may be NULL) from the inner one. Returns the status. */
ds_status api_result(enum status status, const struct error *inner, ds_error *error);

/* "FUNCTION: ARGUMENT is NULL". */
enum status api_null(const char *function, const char *argument, struct error *error);

/* The size of a struct that ends with this field: how long its first version was. */
#define API_UP_TO(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

/* Structs with a size: the caller's bytes into *known, where what the caller's header does not have yet is zero; what
 * this library does not know must be zero. `least` is the size of the struct's first version. NULL gives zeros. */
enum status api_take(void *known, size_t size, size_t least, const void *given, const char *function,
                     const char *argument, struct error *error);
/* The way out: fills the caller's struct as far as it goes. */
enum status api_give(void *given, const void *known, size_t size, size_t least, const char *function,
                     const char *argument, struct error *error);

/* DS_COMPUTE_* to a compute type; COMPUTE_COUNT for the default. */
enum status api_compute(int compute, const char *function, enum compute *type, struct error *error);
int api_compute_name(enum compute compute);

#endif
