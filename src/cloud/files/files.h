// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cloud/cloud.h"

extern const struct cloud_ops files_cloud; // dir:PATH
