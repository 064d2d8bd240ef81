#define GZ_NAME neon
#define GZ_LABEL "neon"
#define GZ_LANES 4
#define GZ_REGISTERS 32
#include "kernels.inc"
