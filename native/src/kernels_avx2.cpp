#define GZ_NAME avx2
#define GZ_LABEL "avx2"
#define GZ_LANES 8
#define GZ_REGISTERS 16
#include "kernels.inc"
