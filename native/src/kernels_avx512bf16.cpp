#define GZ_NAME avx512bf16
#define GZ_LABEL "avx512"
#define GZ_LANES 16
#define GZ_REGISTERS 32
#define GZ_BF16
#include "kernels.inc"
