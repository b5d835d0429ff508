#pragma once
#define NV_TENSORRT_MAJOR 10
