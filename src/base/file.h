/* Files: mapped reading, whole reading with a limit, and replacement that is never half done. */
#ifndef DEEPSEEK_BASE_FILE_H
#define DEEPSEEK_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* A read-only mapping. An empty file maps to data == NULL, size 0. The file must not be changed while it is mapped
 * (another may be renamed over it). */
struct file_map { const uint8_t *data; size_t size; };

enum status file_map_open(struct file_map *map, const char *path, struct error *error);
void file_map_close(struct file_map *map);
/* Part of a mapping that is not read for now: its pages need not stay in memory. Whoever reads it again gets the same
 * bytes. */
void file_map_release(const void *data, size_t bytes);

/* Reads a whole file of at most `limit` bytes into malloc'ed memory, a NUL appended beyond *size. Pipes and devices are
 * read to their end. */
enum status file_read(const char *path, size_t limit, char **data, size_t *size, struct error *error);
/* The same for the files of a model's folder: a pipe or a device there is refused, and not waited for. */
enum status file_read_regular(const char *path, size_t limit, char **data, size_t *size, struct error *error);

bool file_exists(const char *path);
bool file_is_folder(const char *path);
enum status folder_create(const char *path, struct error *error);   /* with parents; an existing folder is fine */
enum status folder_remove(const char *path, struct error *error);   /* with everything in it; a missing one is fine */

/* Writes beside the target, then flushes, fsyncs, renames over it and fsyncs the folder. Until file_commit returns
 * STATUS_OK the target is what it was. Errors stick: one check at the commit suffices. */
struct file_writer { FILE *stream; char *path; char *temporary; enum status status; struct error error; };

enum status file_begin(struct file_writer *writer, const char *path, struct error *error);
void file_put(struct file_writer *writer, const void *data, size_t bytes);
enum status file_commit(struct file_writer *writer, struct error *error);   /* closes and frees, also on failure */
void file_abandon(struct file_writer *writer);

enum status file_replace(const char *path, const void *data, size_t size, struct error *error);
enum status folder_sync(const char *path, struct error *error);
enum status folder_rename(const char *from, const char *to, struct error *error);   /* and fsync of the parent */

#endif
