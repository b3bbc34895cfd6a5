// Applies sharp's operations to a file: the first argument is the file, the second a folder for the results, the third a
// JSON list of lists of steps, each the name of a method and its arguments. Each list becomes NUMBER.png in the folder; with
// a fourth argument, all frames become NUMBER.webp.
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'

const sharp = createRequire(`${resolve(process.env.SHARP_DIR)}/`)('sharp')
const [file, folder, operations, animated] = process.argv.slice(2)

for (const [number, steps] of JSON.parse(operations).entries()) {
  let image = animated ? sharp(file, { animated: true }) : sharp(file).autoOrient()
  for (const [method, ...args] of steps) image = image[method](...args)
  if (animated) await image.webp({ quality: 100 }).toFile(join(folder, `${number}.webp`))
  else await image.png().toFile(join(folder, `${number}.png`))
}
