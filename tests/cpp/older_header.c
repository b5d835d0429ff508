/* older_header MODEL: uses the library like an application that was compiled against an older, shorter header, and then
 * like one that was compiled against a newer, longer header. Returns 0 if the library treats both as rsicrc.h promises.
 */
#include <rsicrc/rsicrc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The structs of rsicrc.h without their last fields. */
typedef struct older_open_options {
  size_t size;
  const char* backend;
  int threads;
  int device;
} older_open_options;

typedef struct older_info {
  size_t size;
  size_t embedding_width;
  size_t image_size;
} older_info;

typedef struct older_caption_options {
  size_t size;
  size_t beams;
} older_caption_options;

typedef struct older_sentence {
  size_t size;
  const char* text;
  double score;
} older_sentence;

/* A struct of rsicrc.h with a new field at its end. */
typedef struct newer_info {
  rsicrc_info info;
  size_t new_field;
} newer_info;

/* Results of an older size, followed by memory that the library must not change. */
#define GUARD 0x5a
#define GUARD_BYTES 256
typedef struct guarded_info {
  older_info info;
  unsigned char guard[GUARD_BYTES];
} guarded_info;
typedef struct guarded_sentence {
  older_sentence sentence;
  unsigned char guard[GUARD_BYTES];
} guarded_sentence;

static void check(int condition, const char* meaning) {
  if (condition) return;
  fprintf(stderr, "not true: %s; last error: %s\n", meaning, rsicrc_last_error());
  exit(1);
}

static int is_untouched(const unsigned char* guard) {
  size_t i;
  for (i = 0; i < GUARD_BYTES; ++i) {
    if (guard[i] != GUARD) return 0;
  }
  return 1;
}

static rsicrc_model* open_model(const char* folder) {
  older_open_options options;
  rsicrc_model* model = NULL;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.threads = 1;
  check(rsicrc_open(folder, (const rsicrc_open_options*)&options, &model) == RSICRC_OK, "older open options work");
  options.threads = -1;
  check(rsicrc_open(folder, (const rsicrc_open_options*)&options, &model) == RSICRC_INVALID_ARGUMENT,
        "the fields of older open options are read");
  options.threads = 1;
  check(rsicrc_open(folder, (const rsicrc_open_options*)&options, &model) == RSICRC_OK,
        "older open options work again");
  return model;
}

static size_t check_info(rsicrc_model* model) {
  guarded_info older;
  rsicrc_info info;
  newer_info newer;
  memset(&older, GUARD, sizeof older);
  older.info.size = sizeof older.info;
  check(rsicrc_model_info(model, (rsicrc_info*)&older.info) == RSICRC_OK, "an older info works");
  check(older.info.size == sizeof older.info, "the size of an older info stays");
  check(is_untouched(older.guard), "nothing is written behind an older info");
  info.size = sizeof info;
  check(rsicrc_model_info(model, &info) == RSICRC_OK, "an info works");
  check(older.info.embedding_width == info.embedding_width && older.info.image_size == info.image_size,
        "an older info has the same values");
  newer.info.size = sizeof newer;
  check(rsicrc_model_info(model, &newer.info) == RSICRC_INVALID_ARGUMENT, "a newer info is refused");
  check(strstr(rsicrc_last_error(), "rsicrc_info") != NULL, "the message names the struct");
  return info.image_size;
}

static double caption(rsicrc_context* context, const rsicrc_pair* pair, const rsicrc_caption_options* options) {
  rsicrc_sentence sentence;
  guarded_sentence older;
  check(rsicrc_caption(context, pair, 1, options) == RSICRC_OK, "caption options work");
  sentence.size = sizeof sentence;
  check(rsicrc_caption_at(context, 0, 0, &sentence) == RSICRC_OK, "a sentence works");
  memset(&older, GUARD, sizeof older);
  older.sentence.size = sizeof older.sentence;
  check(rsicrc_caption_at(context, 0, 0, (rsicrc_sentence*)&older.sentence) == RSICRC_OK, "an older sentence works");
  check(is_untouched(older.guard), "nothing is written behind an older sentence");
  check(older.sentence.text == sentence.text, "an older sentence has the same text");
  return older.sentence.score - sentence.score == 0 ? sentence.score : 1;
}

int main(int argc, char** argv) {
  rsicrc_model* model;
  rsicrc_context* context = NULL;
  rsicrc_pair pair;
  older_caption_options older = {sizeof(older_caption_options), 3};
  rsicrc_caption_options options = RSICRC_CAPTION_OPTIONS_INIT;
  unsigned char* pixels;
  size_t side, i;
  double score;
  if (argc != 2) return 2;
  model = open_model(argv[1]);
  side = check_info(model);
  pixels = malloc(6 * side * side);
  check(pixels != NULL, "there is memory for two images");
  for (i = 0; i < 6 * side * side; ++i) pixels[i] = (unsigned char)(i / 7 % 256);
  pair.before.pixels = pixels;
  pair.before.bytes = 3 * side * side;
  pair.before.width = side;
  pair.before.height = side;
  pair.before.stride = 0;
  pair.after = pair.before;
  pair.after.pixels = pixels + 3 * side * side;
  check(rsicrc_context_open(model, &context) == RSICRC_OK, "a context opens");
  options.beams = 3;
  score = caption(context, &pair, &options);
  check(score <= 0, "an older sentence has the same score");
  check(caption(context, &pair, (const rsicrc_caption_options*)&older) == score,
        "missing caption options are defaults");
  free(pixels);
  rsicrc_context_close(context);
  rsicrc_close(model);
  return 0;
}
