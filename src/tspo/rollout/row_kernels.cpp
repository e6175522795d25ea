// Attention in bfloat16 on a CPU, where plain products read a cache at half the speed of its memory and a softmax
// passes over its scores three times. Sums are kept in float. row_kernels.py compiles this where it is used.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bfloat16 = uint16_t;
constexpr int64_t LINE = 64 / sizeof(bfloat16);  // numbers of a cache line
constexpr int64_t TILE = 256;                    // columns whose scores stay in the nearest cache
constexpr int64_t AHEAD = 16;                    // values fetched before they are needed

inline float wide(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline bfloat16 narrow(float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<bfloat16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 0 to a relative 1e-7, in operations that every compiler turns into vector code (Cephes, expf).
inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float rounding = 12582912.0f;  // 1.5 * 2^23: adding it leaves a whole number
  const float n = (x * 1.44269504f + rounding) - rounding;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// The scores' exponentials in their place, less the greatest score; their sum.
inline float exponentials(float* scores, int64_t count) {
  float greatest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : greatest)
  for (int64_t c = 0; c < count; ++c) greatest = scores[c] > greatest ? scores[c] : greatest;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) {
    scores[c] = exp_of(scores[c] - greatest);
    sum += scores[c];
  }
  return sum;
}

// scores (group, columns) += query (group, size) x keys (size, columns), as far as `end`; four rows of keys at a time.
void add_scores(const bfloat16* query, int64_t head_stride, const bfloat16* keys, int64_t group, int64_t size,
                int64_t columns, int64_t end, float* scores) {
  for (int64_t d = 0; d < size; d += 4) {
    const bfloat16 *k0 = keys + d * columns, *k1 = k0 + columns, *k2 = k1 + columns, *k3 = k2 + columns;
    for (int64_t first = 0; first < end; first += TILE) {
      const int64_t last = first + TILE < end ? first + TILE : end;
      for (int64_t row = 4; row < 8; ++row)
        for (int64_t c = first; c < last; c += LINE) __builtin_prefetch(k0 + row * columns + c);
      for (int64_t g = 0; g < group; ++g) {
        const bfloat16* q = query + g * head_stride + d;
        const float q0 = wide(q[0]), q1 = wide(q[1]), q2 = wide(q[2]), q3 = wide(q[3]);
        float* s = scores + g * columns;
#pragma omp simd
        for (int64_t c = first; c < last; ++c)
          s[c] += q0 * wide(k0[c]) + q1 * wide(k1[c]) + q2 * wide(k2[c]) + q3 * wide(k3[c]);
      }
    }
  }
}

// attended (group, size) += weights (group, columns) x values (columns, size), as far as `end`.
void add_values(const float* weights, const bfloat16* values, int64_t group, int64_t size, int64_t columns, int64_t end,
                float* attended) {
  int64_t c = 0;
  for (; c + 4 <= end; c += 4) {
    const bfloat16 *v0 = values + c * size, *v1 = v0 + size, *v2 = v1 + size, *v3 = v2 + size;
    for (int64_t d = 0; d < 4 * size; d += LINE) __builtin_prefetch(v0 + AHEAD * size + d);
    for (int64_t g = 0; g < group; ++g) {
      const float* w = weights + g * columns + c;
      float* out = attended + g * size;
#pragma omp simd
      for (int64_t d = 0; d < size; ++d)
        out[d] += w[0] * wide(v0[d]) + w[1] * wide(v1[d]) + w[2] * wide(v2[d]) + w[3] * wide(v3[d]);
    }
  }
  for (; c < end; ++c)
    for (int64_t g = 0; g < group; ++g)
      for (int64_t d = 0; d < size; ++d) attended[g * size + d] += weights[g * columns + c] * wide(values[c * size + d]);
}

}  // namespace

// Attention of `count` tokens, each of a row of its own, to the first `ends` columns of their rows.
// query (tokens, heads, size) with strides; keys (rows, key heads, size, columns); values (rows, key heads, columns,
// value size); out (tokens, heads, value size). Heads are key heads x group. `size` is a multiple of 4.
extern "C" void decode(const bfloat16* query, int64_t token_stride, int64_t head_stride, const bfloat16* keys,
                       const bfloat16* values, bfloat16* out, const int64_t* tokens, const int64_t* rows,
                       const int64_t* ends, int64_t count, int64_t key_heads, int64_t group, int64_t size,
                       int64_t value_size, int64_t columns) {
#pragma omp parallel
  {
    std::vector<float> scores(group * columns), attended(group * value_size);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < count * key_heads; ++task) {
      const int64_t at = task / key_heads, head = task % key_heads, store = rows[at] * key_heads + head;
      scores.assign(scores.size(), 0.0f);
      attended.assign(attended.size(), 0.0f);
      add_scores(query + tokens[at] * token_stride + head * group * head_stride, head_stride,
                 keys + store * size * columns, group, size, columns, ends[at], scores.data());
      bfloat16* place = out + (tokens[at] * key_heads + head) * group * value_size;
      std::vector<float>& weights = scores;
      for (int64_t g = 0; g < group; ++g) {
        const float share = 1.0f / exponentials(weights.data() + g * columns, ends[at]);
        for (int64_t c = 0; c < ends[at]; ++c) weights[g * columns + c] *= share;
      }
      add_values(weights.data(), values + store * columns * value_size, group, value_size, columns, ends[at],
                 attended.data());
      for (int64_t i = 0; i < group * value_size; ++i) place[i] = narrow(attended[i]);
    }
  }
}

// Softmax in place of scores (heads, tokens, columns), of which token t sees the first `seen` + t.
extern "C" void causal_softmax(bfloat16* scores, int64_t heads, int64_t tokens, int64_t columns, int64_t seen) {
#pragma omp parallel
  {
    std::vector<float> row(columns);
#pragma omp for
    for (int64_t i = 0; i < heads * tokens; ++i) {
      bfloat16* place = scores + i * columns;
      const int64_t end = seen + i % tokens;
      for (int64_t c = 0; c < end; ++c) row[c] = wide(place[c]);
      const float share = 1.0f / exponentials(row.data(), end);
      for (int64_t c = 0; c < end; ++c) place[c] = narrow(row[c] * share);
      std::memset(place + end, 0, (columns - end) * sizeof(bfloat16));
    }
  }
}
