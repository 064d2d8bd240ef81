#define GZ_NAME avx512
#define GZ_LABEL "avx512"
#define GZ_LANES 16
#define GZ_REGISTERS 32
#include "kernels.inc"
