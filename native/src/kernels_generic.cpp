#define GZ_NAME generic
#define GZ_LABEL "generic"
#define GZ_LANES 4
#define GZ_REGISTERS 16
#include "kernels.inc"
