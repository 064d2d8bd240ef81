/* ghostzoo: classify images with the GhostNet family, from a bundle folder. C interface.
 *
 * Handles are opaque. A function that can fail returns a status; ghostzoo_last_error() then tells the reason in a
 * sentence, for the calling thread. A classifier may be used from several threads at once. */
#ifndef GHOSTZOO_GHOSTZOO_H
#define GHOSTZOO_GHOSTZOO_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(GHOSTZOO_SHARED)
#ifdef GHOSTZOO_BUILDING
#define GHOSTZOO_API __declspec(dllexport)
#else
#define GHOSTZOO_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define GHOSTZOO_API __attribute__((visibility("default")))
#else
#define GHOSTZOO_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ghostzoo_status {
    GHOSTZOO_OK = 0,
    GHOSTZOO_BAD_ARGUMENT = 1,  /* an argument is out of its range */
    GHOSTZOO_NOT_FOUND = 2,     /* a file is not there or cannot be read */
    GHOSTZOO_BAD_BUNDLE = 3,    /* a bundle is damaged, or is none */
    GHOSTZOO_BAD_MODEL = 4,     /* a graph is none that this library runs */
    GHOSTZOO_BAD_IMAGE = 5,     /* an image is damaged, too large or in a format that is not read */
    GHOSTZOO_UNSUPPORTED = 6,   /* this build or this CPU cannot do it */
    GHOSTZOO_NO_MEMORY = 7
} ghostzoo_status;

/* The reason of the last failure in this thread; an empty string before the first. Valid until the next call. */
GHOSTZOO_API const char* ghostzoo_last_error(void);

/* The library's version, such as "0.1.0". */
GHOSTZOO_API const char* ghostzoo_version(void);

/* Where the build has these back ends, "onnxruntime" and "openvino" as instructions have that library run the network. */
typedef struct ghostzoo_options {
    size_t size;              /* sizeof(ghostzoo_options), so that later versions can add fields */
    int threads;              /* for one call; 0: one for each CPU that the process may use */
    const char* instructions; /* "avx512", "avx2", ...; NULL or "": the best that this CPU has */
    const char* precision;    /* "fp32", or "bf16" for CPUs with AVX512-BF16; NULL or "": fp32 */
} ghostzoo_options;

/* Whether this CPU and this build can run networks with these options. */
GHOSTZOO_API ghostzoo_status ghostzoo_check_options(const ghostzoo_options* options);

/* ---- A network alone: tensors in, tensors out. */

typedef struct ghostzoo_network ghostzoo_network;

/* Opens an ONNX file of ghostzoo's that is in memory. `options` may be NULL. */
GHOSTZOO_API ghostzoo_status ghostzoo_network_open(
    const void* onnx, size_t size, const ghostzoo_options* options, ghostzoo_network** network
);
GHOSTZOO_API void ghostzoo_network_close(ghostzoo_network* network);

GHOSTZOO_API int ghostzoo_network_image_size(const ghostzoo_network* network);
GHOSTZOO_API int ghostzoo_network_num_classes(const ghostzoo_network* network);
GHOSTZOO_API int ghostzoo_network_embedding_size(const ghostzoo_network* network);
/* What runs, such as "avx512". */
GHOSTZOO_API const char* ghostzoo_network_instructions(const ghostzoo_network* network);
/* "fp32" or "bf16". */
GHOSTZOO_API const char* ghostzoo_network_precision(const ghostzoo_network* network);

/* Runs `images` tensors of [3][size][size] floats. `logits` gets [images][classes] floats, `embeddings`
 * [images][embedding size]; either may be NULL. */
GHOSTZOO_API ghostzoo_status ghostzoo_network_run(
    ghostzoo_network* network, const float* pixels, size_t images, float* logits, float* embeddings
);

/* ---- A bundle: images in, classes out. */

typedef struct ghostzoo_classifier ghostzoo_classifier;

typedef struct ghostzoo_class {
    int index;
    float score;       /* 0 to 1; those of all classes add up to 1, but not in a multi-label model */
    const char* label; /* UTF-8; valid until the classifier is closed */
} ghostzoo_class;

/* Opens the bundle folder `path` (UTF-8). Its files are held against the manifest. `options` may be NULL. */
GHOSTZOO_API ghostzoo_status ghostzoo_open(
    const char* path, const ghostzoo_options* options, ghostzoo_classifier** classifier
);
GHOSTZOO_API void ghostzoo_close(ghostzoo_classifier* classifier);

GHOSTZOO_API const char* ghostzoo_name(const ghostzoo_classifier* classifier);
GHOSTZOO_API int ghostzoo_num_classes(const ghostzoo_classifier* classifier);
GHOSTZOO_API const char* ghostzoo_label(const ghostzoo_classifier* classifier, int index); /* NULL beyond the last */
/* Its network, which belongs to it. */
GHOSTZOO_API ghostzoo_network* ghostzoo_classifier_network(ghostzoo_classifier* classifier);

/* The formats of images that this build decodes, such as "JPEG, PNG, PPM". */
GHOSTZOO_API const char* ghostzoo_formats(void);

/* Classifies an image file that is in memory: the `*count` best classes, best first; of equal scores the lower index
 * first. `classes` has room for `*count`; fewer are given where the model has fewer. A multi-label model gives the
 * classes whose own score is 0.5 or more. */
GHOSTZOO_API ghostzoo_status ghostzoo_classify(
    ghostzoo_classifier* classifier, const void* file, size_t size, ghostzoo_class* classes, size_t* count
);
/* The same for pixels: rows from the top, three bytes (red, green, blue) a pixel. */
GHOSTZOO_API ghostzoo_status ghostzoo_classify_rgb(
    ghostzoo_classifier* classifier, const uint8_t* rgb, int width, int height, ghostzoo_class* classes, size_t* count
);

/* What the network is given for an image: `pixels` gets [3][size][size] floats. */
GHOSTZOO_API ghostzoo_status ghostzoo_preprocess(
    const ghostzoo_classifier* classifier, const void* file, size_t size, float* pixels
);
GHOSTZOO_API ghostzoo_status ghostzoo_preprocess_rgb(
    const ghostzoo_classifier* classifier, const uint8_t* rgb, int width, int height, float* pixels
);

#ifdef __cplusplus
}
#endif

#endif
